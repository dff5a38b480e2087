"""`xdc export`: encoders and cluster heads as files for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from xdc_fast.errors import UserError
from xdc_fast.tools import PATH, json_option, print_result
from xdc_fast.tools.evaluate import open_model


@click.command()
@click.argument("where")
@click.argument("out", type=PATH)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--onnx", is_flag=True, help="Write ONNX files too. onnxruntime checks them.")
@click.option(
    "--recipe", type=PATH, help="The recipe of an XDC .pth file. Runs and exports have their own."
)
@json_option
def export(
    where: str,
    out: Path,
    settings: tuple[str, ...],
    onnx: bool,
    recipe: Path | None,
    as_json: bool,
) -> None:
    """Write WHERE's encoders and cluster heads to the folder OUT, as safetensors.

    WHERE is a run, its encoders.pt or checkpoint.pt, an export, or an XDC .pth file.
    `xdc_fast.load` opens OUT again. KEY=VALUE changes WHERE's recipe: with video.frames=32 the
    ONNX file reads clips of 32 frames.
    """
    from xdc_fast.models.export import write_export

    if where == "random":
        raise UserError("random: there is nothing to export; give a run or an XDC .pth file")
    model = open_model(where, settings, recipe)
    files = write_export(out, model, onnx)
    features = {modality: encoder.features for modality, encoder in model.encoders.items()}
    heads = {name: head.out_features for name, head in model.heads.items()}
    parts = [f"{modality} encoder, {width} features" for modality, width in features.items()]
    parts += [f"head {name}, k={k}" for name, k in heads.items()]
    lines = [f"{out}: {'; '.join(parts)}"]
    lines += [f"  {name:20} {size / 1e6:10,.2f} MB" for name, size in files.items()]
    result = {"out": str(out), "features": features, "heads": heads, "files": files}
    print_result(result, lines, as_json)
