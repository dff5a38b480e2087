"""Weights out: a folder of safetensors, a config, and ONNX files when asked for.

OUT/config.yaml          format, source, whether its run had finished, packing, recipe; written
                         last, UNFINISHED stands there first: the folder is ours
OUT/video.safetensors    the encoders' weights, of those that there are
OUT/audio.safetensors
OUT/heads.safetensors    NAME.weight and NAME.bias of each cluster head, if there are any
OUT/video.onnx           the encoders as graphs: `clips`, as encoders read them, to `features`
OUT/audio.onnx
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import nn

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.errors import UserError
from xdc_fast.files import damaged, locked, misfit, write
from xdc_fast.models.model import Model
from xdc_fast.packing.settings import PackSettings
from xdc_fast.pretraining.methods import method_with
from xdc_fast.recipe import END, Recipe, dump_recipe, is_whole, read_recipe

FORMAT = 1
LONGEST = 100_000  # bytes of a config
UNFINISHED = {"format": FORMAT, "unfinished": True}
PACKING = {"codec": str, "fps": float, "short_side": int}
FORM = {"format": int, "finished?": bool, "packing": PACKING, "recipe": dict}
AGAIN = "export again, to another folder"
CONFIG = "config.yaml"
HEADS = "heads.safetensors"
ONNX_OPSET = 18
TOLERANCE = 1e-5  # of an ONNX file's features, relative to the largest of the encoder's own


@dataclass(frozen=True)
class Export:
    """What a folder of ours holds: state dicts of encoders by modality and of heads by name.

    finished: False for the encoders of a run whose training had not ended.
    """

    recipe: Recipe
    packing: dict
    weights: dict[str, dict[str, torch.Tensor]]
    heads: dict[str, dict[str, torch.Tensor]]
    finished: bool


def write_export(out: Path, model: Model, onnx: bool = False) -> dict[str, int]:
    """Write a model (`xdc_fast.load`) to a folder; returns {file name: bytes}.

    The recipe is kept without the places and the machine of its run. ONNX files take batches of
    any size of float32 clips as the recipe shapes them, and are checked by onnxruntime at two.
    Raises UserError when the folder holds anything but an earlier export, which is replaced, when
    another process writes there, or when ONNX packages are missing.
    """
    if onnx:
        _import_onnx()
    files = {f"{modality}.safetensors": e.state_dict() for modality, e in model.encoders.items()}
    recipe = replace(model.recipe, data="", out="", device="auto", loader="auto")
    if model.heads:
        heads = model.heads.items()
        files[HEADS] = {f"{n}.{k}": t for n, head in heads for k, t in head.state_dict().items()}
        k = next(iter(model.heads.values())).out_features
        recipe = replace(recipe, method=method_with(model.heads), k=k)  # settings may say otherwise
    config = {
        "format": FORMAT,
        "source": Path(model.name).name,
        "finished": model.finished,
        "packing": {key: getattr(model.packing, key) for key in PACKING},
        "recipe": yaml.safe_load(dump_recipe(recipe)),
    }
    with _cleared(out):
        for name, tensors in files.items():
            plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            write(out / name, safetensors.torch.save(plain, {"format": "pt"}))
        if onnx:
            for modality, encoder in model.encoders.items():
                write_onnx(out / f"{modality}.onnx", encoder, clip_shape(model.recipe, modality))
        write(out / CONFIG, yaml.safe_dump(config, sort_keys=False) + END)
        return {name: (out / name).stat().st_size for name in sorted(_files(out))}


def clip_shape(recipe: Recipe, modality: str) -> tuple[int, ...]:
    """What an encoder reads of one clip: video (3, T, H, W), audio (1, mels, frames)."""
    video, audio = recipe.video, recipe.audio
    if modality == "video":
        return 3, video.frames, video.crop, video.crop
    return 1, audio.n_mels, audio.frames


def read_export(folder: Path) -> Export:
    """A folder that `write_export` wrote; UserError when it is damaged or of another format."""
    path = folder / CONFIG
    config = _read_config(path)
    if config == UNFINISHED:
        raise UserError(f"{folder}: the export was interrupted; run the same `xdc export` again")
    if isinstance(config, dict) and config.get("format", FORMAT) != FORMAT:
        found = config["format"]
        raise UserError(f"{path}: format {found}, this version reads {FORMAT}; {AGAIN}")
    if fault := misfit(config, FORM):
        raise UserError(f"{path}: not the config of an export ({fault}); {AGAIN}")
    if not is_whole(path.read_text(encoding="utf-8")):
        raise damaged(path, "its end lacks", AGAIN)
    packing = {key: config["packing"][key] for key in PACKING}
    try:
        PackSettings(**packing).check()
    except UserError as error:
        raise UserError(f"{path}: {error}; {AGAIN}") from None
    weights = {
        modality: _read(folder / f"{modality}.safetensors")
        for modality in MODALITIES
        if (folder / f"{modality}.safetensors").is_file()
    }
    if not weights:
        raise UserError(f"{folder}: neither video.safetensors nor audio.safetensors; {AGAIN}")
    heads: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in (_read(folder / HEADS) if (folder / HEADS).is_file() else {}).items():
        head, _, part = key.rpartition(".")
        heads.setdefault(head, {})[part] = tensor
    recipe, finished = read_recipe(config["recipe"], str(path)), config.get("finished", True)
    return Export(recipe, packing, weights, heads, finished)


@contextmanager
def _cleared(out: Path) -> Iterator[None]:
    """Only one process at a time is in here for a folder, which holds nothing but UNFINISHED.

    Raises UserError when it is a file or holds anything but an export of ours, or part of one.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"{out}: another process is exporting there; wait for it"):
        ours = {f"{m}.{kind}" for m in MODALITIES for kind in ("safetensors", "onnx")}
        found, config = _files(out), _read_config(out / CONFIG)
        known = isinstance(config, dict) and "format" in config
        if found and (not known or found - ours - {CONFIG, HEADS}):
            raise UserError(f"{out}: not empty, and not an earlier export; give another folder")
        write(out / CONFIG, yaml.safe_dump(UNFINISHED))
        for name in found - {CONFIG}:
            (out / name).unlink()
        yield


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("[!.]*")}


def _read_config(path: Path) -> Any:
    """What a YAML file holds; None where it is none."""
    try:
        content = path.read_bytes()
        if len(content) > LONGEST:
            return None
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content)):
            return None  # aliases unfold without end
        return yaml.safe_load(content)
    except Exception:  # yaml raises many kinds
        return None


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # safetensors raises several kinds
        raise UserError(f"{path}: cannot be read ({error}); {AGAIN}") from None


def _import_onnx() -> ModuleType:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx.export needs it
    except ImportError as error:
        raise UserError(
            f"--onnx: {error.name} is not installed; pip install onnx onnxscript onnxruntime"
        ) from None
    return onnxruntime


class GlobalMax(nn.Module):
    """nn.AdaptiveMaxPool2d(1), for which torch.onnx has no translation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax((2, 3), keepdim=True)


def write_onnx(path: Path, encoder: nn.Module, shape: tuple[int, ...]) -> None:
    """Export an encoder, and compare its features by onnxruntime at batches of 1 and 3."""
    encoder = copy.deepcopy(encoder).cpu().eval()
    graph = copy.deepcopy(encoder)
    if isinstance(getattr(graph, "pool", None), nn.AdaptiveMaxPool2d):
        graph.pool = GlobalMax()
    draw = torch.Generator().manual_seed(0)
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it would warn that torchvision is not installed
    try:
        with warnings.catch_warnings():
            # of torch's own code, under torch 2.11
            warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)
            program = torch.onnx.export(
                graph,
                (torch.randn(2, *shape, generator=draw),),
                dynamo=True,
                input_names=["clips"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=ONNX_OPSET,
                verbose=False,
            )
    finally:
        registration.setLevel(level)
    assert program is not None  # with dynamo=True
    content = program.model_proto.SerializeToString()
    session = _import_onnx().InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        clips = torch.randn(batch, *shape, generator=draw)
        with torch.no_grad():
            wanted = encoder(clips).numpy()
        (found,) = session.run(["features"], {"clips": clips.numpy()})
        error = np.abs(found - wanted).max() / np.abs(wanted).max()
        if found.shape != wanted.shape or not error <= TOLERANCE:
            raise UserError(
                f"{path}: not written: the features of onnxruntime differ by {error:.1e}; export "
                "without --onnx"
            )
    write(path, content)
