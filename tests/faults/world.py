"""What trials break: videos, shard sets, a run, its features and its export."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.common.pretraining import SETTINGS
from tests.faults.trials import call
from xdc_fast.packing.toy import make_toy

PACK = ("--short-side", 40, "--shard-mb", 1, "--workers", 2)
LABEL = ("--label", "class")
EXTRACT = ("--stride", 2, "--modality", "audio")
FINETUNE = (*LABEL, "--clips", 1, "--epochs", 1, "--only-head", "--modality", "audio")


@dataclass(frozen=True)
class World:
    """root: a folder for all of it. Trials work on copies, in folders that `scratch` empties."""

    root: Path

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    @property
    def shards(self) -> Path:
        return self.root / "set"

    @property
    def made(self) -> Path:
        """Holds run/, features/ and export/."""
        return self.root / "made"

    def scratch(self, name: str = "scratch") -> Path:
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def copy(self, folder: Path, name: str = "copy") -> Path:
        target = self.root / name
        shutil.rmtree(target, ignore_errors=True)
        return Path(shutil.copytree(folder, target))


def commands(made: Path, shards: Path) -> dict[str, tuple[object, ...]]:
    """Commands by name that read the files of `made`; see World."""
    run = made / "run"
    return {
        "report": ("xdc", "report", run, "--data", shards),
        "pretrain": ("xdc", "pretrain", run / "recipe.yaml", f"out={run}", f"data={shards}"),
        "probe": ("xdc", "probe", run, "--data", shards, *LABEL, "--clips", 1),
        "finetune": ("xdc", "finetune", run, "--data", shards, *FINETUNE),
        "retrieve": ("xdc", "retrieve", run, "--data", shards, "--clips", 1),
        "export": ("xdc", "export", run, made / "export"),
        "extract": ("xdc", "extract", run, made / "features", "--data", shards, *EXTRACT),
        "again": ("xdc", "export", made / "export", made / "second"),
    }


RECIPE = Path(__file__).parents[2] / "recipes" / "toy.yaml"
SMALL = ("train.batch=6", "train.epochs=1", "device=cpu", "loader=host")


def pretrain(shards: Path, out: Path) -> tuple[object, ...]:
    """The command that makes a small run."""
    return ("xdc", "pretrain", RECIPE, f"data={shards}", f"out={out}", *SETTINGS, *SMALL)


def pack(world: World, out: Path) -> tuple[object, ...]:
    """The command that packs the videos."""
    labels = world.videos / "labels.csv"
    return ("xdc-shard", "pack", world.videos, out, *PACK, "--labels", labels)


def build(root: Path) -> World:
    """Makes all of it, in less than a minute."""
    world = World(root)
    make_toy(world.videos, videos=24, classes=4, seed=0, workers=2)
    made = world.made
    for command in (
        pack(world, world.shards),
        pretrain(world.shards, made / "run"),
        *(
            commands(made, world.shards)[name]
            for name in ("probe", "finetune", "extract", "export", "report")
        ),
    ):
        done = call(*command)
        assert done.status == 0, (command, done)
    return world
