"""The inputs of a public data set: its official lists and the files that a user has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av

from xdc_fast.errors import UserError
from xdc_fast.packing.datasets import readers
from xdc_fast.packing.datasets.listing import Holding, Row
from xdc_fast.packing.media import Refusal, open_media
from xdc_fast.packing.sources import PackInputs
from xdc_fast.packing.spool import Source, printable
from xdc_fast.shards.format import MISSING
from xdc_fast.storage import Place


class Reader(NamedTuple):
    """A data set. tracks: of its samples, unless others are asked for. names: of its files."""

    rows: Callable[[Holding], Iterator[Row]]
    tracks: str
    names: str
    site: str


LONGER = 1.0  # seconds by which a cut may be longer than its list says
SHORTEST = 0.1  # seconds of a listed video; HMDB51 has some below 1
ESC_SITE = "the ESC-50 repository of K. J. Piczak"
READERS = {
    "ucf101": Reader(
        readers.ucf101,
        "video",
        "v_CLASS_gNN_cNN.*",
        "the UCF101 page of UCF's CRCV (recognition task)",
    ),
    "hmdb51": Reader(
        readers.hmdb51,
        "video",
        "NAME.*, by the names in the lists",
        "the HMDB51 page of the Serre Lab",
    ),
    **{
        f"kinetics{size}": Reader(
            partial(readers.kinetics, size=size),
            "both",
            "YOUTUBEID_000010_000020.* or, whole, YOUTUBEID.*",
            "the Kinetics page of CVDF or DeepMind",
        )
        for size in ("400", "600", "700")
    },
    "audioset": Reader(
        readers.audioset,
        "both",
        "YTID_30.000.*, YTID_30000_40000.* and, whole or cut, YTID.*",
        "Google's AudioSet page",
    ),
    "vggsound": Reader(
        readers.vggsound,
        "both",
        "YTID_000030.* or, whole, YTID.*",
        "the VGGSound page of Oxford's VGG",
    ),
    "ave": Reader(readers.ave, "both", "YTID.*", "the AVE repository of Y. Tian"),
    "epic_sounds": Reader(
        readers.epic_sounds,
        "audio",
        "P01_01.* (whole) or P01_01_0.*",
        "the EPIC-Sounds repository of EPIC-KITCHENS",
    ),
    "urbansound8k": Reader(
        readers.urbansound8k, "audio", "100032-3-0-0.*", "the UrbanSound8K page of its authors"
    ),
    "esc50": Reader(partial(readers.esc, ten=False), "audio", "1-100032-A-0.*", ESC_SITE),
    "esc10": Reader(
        partial(readers.esc, ten=True), "audio", "1-100032-A-0.* or CLASS/1-100032-A.*", ESC_SITE
    ),
    "dcase": Reader(
        readers.dcase,
        "audio",
        "scenes_stereo/bus01.* and scenes_stereo_testset/bus01.*",
        "the DCASE 2013 challenge page (scene classification)",
    ),
    "dcase2018": Reader(
        readers.dcase2018,
        "audio",
        "YYTID_30.000_40.000.*",
        "the DCASE 2018 challenge page (task 4)",
    ),
    "thumos14": Reader(
        readers.thumos14,
        "video",
        "video_validation_0000051.* and video_test_0000004.*",
        "the THUMOS Challenge 2014 page",
    ),
}


def collect_dataset(name: str, root: Path, out: Place) -> PackInputs:
    """The inputs of the data set `name`, a key of READERS, that lie under `root`.

    Videos are found by name in any folder; links are followed, and files under `out` are left out.
    `missing` of the result holds the name and the list of each video that is not found.
    Raises UserError for lists that are absent or malformed, and when no video is found.
    """
    reader = READERS[name]
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the one that holds the data set {name}")
    holding = Holding(root, out, reader.site)
    rows = list(reader.rows(holding))
    kind = "recordings" if reader.tracks == "audio" else "videos"
    taken: dict[tuple[str, tuple[float, float] | None], Row] = {}
    for row in rows:
        _take_whole(row, root)
        if row.paths:
            taken.setdefault((row.paths[0], row.span), row)
    if not taken:
        raise UserError(
            f"{root}: none of the {kind} of {name} is there ({len(rows):,} are listed); they are "
            f"looked for as {reader.names}"
        )
    missing = [(row.name, row.listed) for row in rows if not row.paths]
    named = {path for row in rows for path in row.paths}
    used = {path for path, _ in taken}
    counts = {
        f"of {len(rows):,} {kind} are missing; {out / MISSING} lists them": len(missing),
        "files have the same name as another file; the first by path is taken": len(named)
        - len(used),
        "lines name a file that an earlier one names; it is taken once": (
            len(rows) - len(missing) - len(taken)
        ),
        f"files under {root} are in no list": (sum(map(len, holding.media.values())) - len(named)),
    }
    return PackInputs(
        [
            Source(root / path, printable(path), taken[path, span].labels, span)
            for path, span in sorted(taken, key=lambda each: (os.fsencode(each[0]), each[1] or ()))
        ],
        sorted({column for row in rows for column in row.labels}),
        [f"{name}: {count:,} {what}" for what, count in counts.items() if count],
        missing,
    )


def _take_whole(row: Row, root: Path) -> None:
    """Where a row has no cut of its own, its part of the whole video is taken.

    A file that is no longer than the part is the cut, whatever its name.
    """
    if row.paths or not row.whole:
        return
    row.paths, (start, end) = row.whole, row.part
    try:
        with open_media(root / row.whole[0]) as container:
            seconds = (container.duration or 0) / av.time_base
    except Refusal:  # it will be refused with its reason
        return
    if seconds > end - start + LONGER:
        row.span = float(start), float(end)
