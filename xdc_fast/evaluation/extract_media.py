"""Features all along media files that are not packed, with their times.

OUT/extract.json      what made them; another model, other files or another stride is refused
OUT/samples.csv       index, source and labels of each file
OUT/media-000000.npz  of 64 files: index, start, stop, video, audio as `xdc extract --data` writes
                      them of a shard, but NaN where a file lacks the track; refused int64 (R,), the
                      files without features; reason, detail text (R,)
OUT/refused.csv       source, reason and detail of each file without features
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xdc_fast import progress
from xdc_fast.clips.loader import choose_device
from xdc_fast.encoders.features import weights_digest, widths_of
from xdc_fast.encoders.memory import check_memory
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import clip_settings
from xdc_fast.evaluation.extract import AGAIN, PlacedClips, claimed, clips_form, place_clips, spans
from xdc_fast.files import damaged, read_arrays, write_arrays
from xdc_fast.models.load import Model
from xdc_fast.models.media import iterate_media
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.sources import PackInputs, collect
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.shards.format import REFUSED, SAMPLES
from xdc_fast.shards.tables import write_csv

FILES = 64  # in an npz


def extract_media(
    model: Model,
    media: Path,
    out: Path,
    stride: float = 1.0,
    *,
    modality: str | None = None,
    ranks: Ranks = ALONE,
) -> dict:
    """Features of clips of the recipe's length, one every `stride` seconds, to the folder `out`.

    Args:
        model: the encoders.
        media: a folder of media files. They are decoded as `model.packing` says.
        out: the folder. Files whose features are there already are not read again.
        stride: seconds from one clip to the next. A file shorter than a clip gives one.
        modality: "video" or "audio", to extract that alone.
        ranks: they share the files, and all see the folder.

    Returns:
        The content of extract.json, the counts of samples, clips and refused files, and the
        reasons, {reason: files}; the first rank alone returns the counts.

    Raises:
        UserError: for a folder without files, or a folder `out` that holds anything else.
    """
    encoders = {m: e for m, e in model.encoders.items() if modality in (None, m)}
    if not encoders:
        raise UserError(f"{model.name}: holds no {modality} encoder; leave --modality out")
    if model.name == "random":  # their BatchNorm has seen nothing yet
        raise UserError("random: needs a shard set to calibrate BatchNorm on; give --data SHARDS")
    device = choose_device(model.recipe.device)
    check_memory(model.recipe, encoders, device, training=False)
    inputs, shape = collect([media], None, out), model.inputs.shape
    if not inputs.sources:
        raise UserError(f"{media}: holds no files that could be media; give another folder")
    paths = [source.path for source in inputs.sources if isinstance(source.path, Path)]
    if len(paths) < len(inputs.sources):
        raise UserError(f"{media}: names files on storage; pack them first, and give --data")
    if any(source.span for source in inputs.sources):
        raise UserError(
            f"{media}: names segments of files; pack them with `xdc-shard pack`, and give --data"
        )
    packing = model.packing
    made_by = {
        "stride": stride,
        "media": inputs.fingerprint(),
        "packing": {k: getattr(packing, k) for k in ("codec", "fps", "short_side")},
        "weights": weights_digest(encoders),
        "clip": clip_settings(model.recipe, tuple(encoders)),
    }
    about = {"where": model.name, "finished": model.finished, "data": str(media), **made_by}
    widths = widths_of(encoders)
    with claimed(out, made_by, about, ranks):
        if ranks.first:
            write_samples(out, inputs)
        count = len(inputs.sources)
        blocks = [
            Block(out / f"media-{first // FILES:06d}.npz", range(first, min(first + FILES, count)))
            for first in range(0, count, FILES)
        ]
        done = ranks.broadcast([block.path.is_file() for block in blocks])
        lacking = [block for block, there in zip(blocks, done, strict=True) if not there]
        own = lacking[ranks.share(len(lacking))]
        missing = [index for block in own for index in block.files]
        if ranks.first:
            for block, there in zip(blocks, done, strict=True):
                if there:
                    block.load(widths)

        def place(row: np.ndarray) -> PlacedClips:
            return place_clips(*spans(row, shape, tracks_of(row, encoders)), stride)

        items = iterate_media(
            encoders,
            model.inputs,
            packing,
            [paths[index] for index in missing],
            lambda row: place(row).positions,
            batch=model.recipe.train.group_size,
            device=device,
            threads=model.recipe.threads,
        )
        bar = progress.bar(
            zip(missing, items, strict=True),
            total=len(missing),
            desc="files",
            unit="file",
        )
        for index, item in bar:
            block = blocks[index // FILES]
            if isinstance(item, Refusal):
                block.refused.append((index, item.reason, item.detail))
            else:
                block.found.append((index, place(item.clips.row), item.arrays))
            if index == block.files[-1]:
                block.save(widths)
        ranks.barrier()
        if not ranks.first:
            return about
        for block in lacking[len(own) :]:  # of the other ranks
            block.load(widths)
        return about | summarize(out, inputs, blocks)


def tracks_of(row: np.ndarray, wanted: Iterable[str]) -> tuple[str, ...]:
    """The wanted tracks that a file has, by its SAMPLE row (1,)."""
    return tuple(modality for modality in wanted if row[modality][0] >= 0)


def write_samples(out: Path, inputs: PackInputs) -> None:
    """Writes samples.csv: a row for each file."""
    rows = [
        [index, source.name, *(source.labels.get(column, "") for column in inputs.columns)]
        for index, source in enumerate(inputs.sources)
    ]
    write_csv(out / SAMPLES, ("index", "source", *inputs.columns), rows)


@dataclass
class Block:
    """The files whose features share an npz, by index, and what was found of them so far."""

    path: Path
    files: range
    clips: int = 0
    found: list[tuple[int, PlacedClips, dict[str, np.ndarray]]] = field(default_factory=list)
    refused: list[tuple[int, str, str]] = field(default_factory=list)

    def save(self, widths: dict[str, int]) -> None:
        """Writes the npz. widths: of the features, by modality."""
        arrays = {
            "index": concatenate([np.full(len(p.start), i) for i, p, _ in self.found], np.int64),
            "start": concatenate([placed.start for _, placed, _ in self.found], np.float64),
            "stop": concatenate([placed.stop for _, placed, _ in self.found], np.float64),
        }
        for modality, width in widths.items():
            parts = [np.zeros((0, width), np.float32)]
            for _, placed, features in self.found:
                absent = np.full((len(placed.start), width), np.nan, np.float32)
                parts.append(features.get(modality, absent))
            arrays[modality] = np.concatenate(parts)
        for name, column in zip(("refused", "reason", "detail"), range(3), strict=True):
            kind = np.int64 if name == "refused" else np.str_
            arrays[name] = np.array([row[column] for row in self.refused], kind)
        write_arrays(self.path, **arrays)
        self.clips = len(arrays["index"])
        self.found.clear()

    def load(self, widths: dict[str, int]) -> None:
        """What `save` wrote, without the features; UserError where it is not of these files."""
        listed = {"refused": (np.int64, ("R",)), "reason": (str, ("R",)), "detail": (str, ("R",))}
        arrays = read_arrays(self.path, {**clips_form(widths), **listed}, AGAIN)
        if {*arrays["index"].tolist()} | {*arrays["refused"].tolist()} != {*self.files}:
            raise damaged(self.path, "not the clips of its files", AGAIN)
        self.clips = len(arrays["index"])
        self.refused = list(zip(*(arrays[name].tolist() for name in listed), strict=True))


def concatenate(parts: list[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *parts])


def summarize(out: Path, inputs: PackInputs, blocks: list[Block]) -> dict:
    """Writes refused.csv; returns the counts of files, clips and refused files, and the reasons."""
    clips = sum(block.clips for block in blocks)
    refused = [
        [inputs.sources[index].name, reason, detail]
        for block in blocks
        for index, reason, detail in block.refused
    ]
    write_csv(out / REFUSED, ("source", "reason", "detail"), refused)
    reasons = dict(sorted(Counter(reason for _, reason, _ in refused).items()))
    count = len(inputs.sources)
    return {"samples": count, "clips": clips, "refused": len(refused), "reasons": reasons}
