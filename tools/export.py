"""`xdc export`: encoders and cluster heads as files for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from xdc_fast.errors import UserError


@click.command()
@click.argument("where", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--onnx", is_flag=True, help="also as ONNX, checked by onnxruntime")
@click.option("--json", "as_json", is_flag=True, help="print the result as one JSON line")
def export(where: Path, out: Path, settings: tuple[str, ...], onnx: bool, as_json: bool) -> None:
    """Write WHERE's encoders and cluster heads to the folder OUT, as safetensors.

    WHERE is a run, its encoders.pt or checkpoint.pt, or an XDC .pth file. OUT loads again by
    `xdc_fast.load`. KEY=VALUE changes WHERE's recipe: video.frames=32, say, makes the ONNX file
    read clips of 32 frames.
    """
    from xdc_fast.models.export import write_export
    from xdc_fast.models.load import load

    if str(where) == "random":
        raise UserError("random: there is nothing to export; give a run or an XDC .pth file")
    model = load(where, settings)
    files = write_export(out, model, onnx)
    features = {modality: encoder.features for modality, encoder in model.encoders.items()}
    if as_json:
        heads = {name: head.out_features for name, head in model.heads.items()}
        result = {"out": str(out), "features": features, "heads": heads, "files": files}
        click.echo(json.dumps(result))
        return
    parts = [f"{modality} encoder, {width} features" for modality, width in features.items()]
    parts += [f"head {name}, k={head.out_features}" for name, head in model.heads.items()]
    click.echo(f"{out}: {'; '.join(parts)}")
    for name, size in files.items():
        click.echo(f"  {name:20} {size / 1e6:10,.2f} MB")
