"""A sweep: the product of settings as runs; what is missing is run, then all are probed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.errors import UserError
from xdc_fast.evaluation.probe import both_features, probe
from xdc_fast.evaluation.splits import GROUP_COLUMNS, classes_of, over_splits
from xdc_fast.interrupt import raising
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.methods import heads_of
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import Recipe, load_recipe
from xdc_fast.shards.dataset import ShardSet

WHOLE = ("out", "label", "split")  # never split at commas
SCRATCH = "scratch"  # in place of a method: the encoders before any training
UNSAFE = re.compile(r"[^\w.+-]")  # in the name of a folder
TEST_SHARE = 0.3


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    values: {key: what a table shows}, of method, k, every key with several values, and seed.
    clusters: those of the NMI; k, but for method=supervised the k of its neighbours.
    """

    recipe: Recipe
    values: dict[str, str]
    clusters: int

    @property
    def name(self) -> str:
        return Path(self.recipe.out).name


@dataclass(frozen=True)
class Test:
    """What finished runs are probed on. split: a label column of train and test, or None."""

    shards: ShardSet
    labels: tuple[str, ...]
    clips: int = 3
    split: str | None = None
    seed: int = 0

    @cached_property
    def data(self) -> str:
        return self.shards.fingerprint

    def __post_init__(self) -> None:
        for column in (*self.labels, *((self.split,) if self.split else ())):
            classes_of(self.shards, column)  # UserError before anything is run


def plan(recipe: str | Path | None, settings: tuple[str, ...]) -> list[Trial]:
    """The runs of a sweep, those of the first seed first.

    settings: KEY=VALUE, or KEY=VALUE,VALUE for an axis; commas within brackets do not split, nor
    do those of out and label, nor those of data unless every part is a folder. Each run is a
    folder in `out`, named by method, k, the other keys with several values in alphabetical order,
    and the seed: method=xdc,k=64,train.lr=0.1,seed=0. Of data it takes the folder's name; what is
    not a letter, a digit or one of . _ + - becomes _.
    For method=supervised k becomes the number of classes of `label`; other methods read no label
    and no split, and none is kept in their recipes.
    Raises UserError for what load_recipe refuses, unknown methods, and names that do not differ.
    """
    axes = _axes(settings)
    order = sorted(axes, key=lambda key: key != "seed")  # a table of few seeds is whole early
    several = {key for key in axes if len(axes[key]) > 1}
    keys = ("method", "k", *sorted(several - {"method", "k", "seed"}), "seed")
    trials: dict[str, Trial] = {}
    for values in product(*(axes[key] for key in order)):
        given = dict(zip(order, values, strict=True))
        loaded = load_recipe(recipe, tuple(f"{key}={value}" for key, value in given.items()))
        heads_of(loaded.method)
        if not loaded.out:
            raise UserError("no folder for the sweep; give out=FOLDER")
        if loaded.method != "supervised":
            chosen = replace(loaded, label="", split="")
        elif loaded.label:
            classes = ShardSet(loaded.data).memberships(loaded.label)[2]
            chosen = replace(loaded, k=len(classes))
        else:
            raise UserError("method=supervised: give label=COLUMN, what it is to predict")
        shown = {key: _show(chosen, key) for key in keys}
        name = ",".join(f"{key}={UNSAFE.sub('_', shown[key])}" for key in keys)
        chosen = replace(chosen, out=str(Path(loaded.out) / name))
        before = trials.setdefault(name, Trial(chosen, shown, loaded.k))
        if before.recipe != chosen:
            raise UserError(f"two runs would be named {name}; give values whose names differ")
    return list(trials.values())


def run_trial(trial: Trial, test: Test | None) -> Run:
    """Trains what is missing of a run and makes what is missing of its probes.

    Raises UserError when the run or a probe is refused, Busy when another process is at work on
    it, Interrupted after SIGINT or SIGTERM; then the same call goes on.
    """
    _check_label_leakage(trial.recipe, test)
    with raising():
        run = _train(trial.recipe)
        with run.hold():
            _probe(run, trial, test)
    return run


def _check_label_leakage(recipe: Recipe, test: Test | None) -> None:
    """UserError, before the training, for a test that check_label_leakage would refuse after it."""
    if recipe.method != "supervised" or test is None or recipe.label not in test.labels:
        return
    apart = recipe.split and recipe.split == test.split
    if not apart and ShardSet(recipe.data).fingerprint == test.data:
        raise UserError(
            f"{recipe.out}: would learn the label '{recipe.label}' of the videos it is tested on; "
            "name a column of train and test by split=COLUMN and --split COLUMN"
        )


def figures_of(trial: Trial, test: Test | None) -> dict | None:
    """What a run came to; None when it is not finished and probed.

    {samples, seconds, nmi_audio_video (of the last iteration, None where the method has none)} and
    for each label LABEL_chance and, with each modality, {LABEL_MODALITY_accuracy, _nmi, _other,
    _other_nmi}: probe accuracy, the NMI of clusters with the label, and the column, other than it,
    with the largest NMI.
    """
    root = Path(trial.recipe.out)
    if not _finished(root):
        return None
    probes = [_kept_probe(root, trial, test, label) for label in test.labels] if test else []
    if None in probes:
        return None
    summary = Run.open(root).summary()
    figures = {key: summary[key] for key in ("samples", "seconds")}
    figures["nmi_audio_video"] = summary["iterations"][-1]["nmi_audio_video"]
    return figures | _of_probes(probes, "pretrained", "nmi")


def scratch_of(trial: Trial, test: Test | None) -> dict:
    """The figures of a finished run's encoders before any training."""
    probes = [_kept_probe(Path(trial.recipe.out), trial, test, label) for label in test.labels]
    figures = {"samples": None, "seconds": None, "nmi_audio_video": None}
    return figures | _of_probes(probes, "random", "nmi_random")


def tabulate(trials: list[Trial], test: Test | None, reasons: dict[str, str]) -> dict:
    """The state of a sweep, from its folders alone.

    reasons: {name of a run: why it has no figures}.
    Returns {keys, axes, labels, eval, runs, rows}. axes: those keys that differ, and their values
    (k as it was asked for). runs: [{name, reason, *keys, seed, *figures}], reason
    "" for those that have figures; then, of each seed and each choice of encoders, what they were
    before any training, of method "scratch" and with the k that its NMI is of.
    rows: [{values: {key: ...}, seeds, mean: {figure: ...}, spread: {...}}], over the runs that
    differ in nothing but the seed; the spread is their standard deviation (n - 1).
    """
    keys = [key for key in trials[0].values if key != "seed"]
    asked = [trial.values | {"k": str(trial.clusters)} for trial in trials]
    axes = {key: list(dict.fromkeys(values[key] for values in asked)) for key in keys}
    runs, scratch = [], {}
    for trial in trials:
        figures = figures_of(trial, test)
        reason = "" if figures else reasons.get(trial.name, "not run yet")
        runs.append({"name": trial.name, "reason": reason, **trial.values, **(figures or {})})
        if figures and test:
            values = {k: v if k.startswith(("video.", "audio.")) else "" for k, v in
                      trial.values.items()}  # fmt: skip
            values |= {"method": SCRATCH, "k": "", "seed": trial.values["seed"]}
            if tuple(values.values()) not in scratch:
                start = values | {"k": str(trial.clusters)}
                begun = {"name": "", "reason": "", **start, **scratch_of(trial, test)}
                scratch[tuple(values.values())] = begun
    groups: dict[tuple, list[dict]] = {}
    for run in [*scratch.values(), *runs]:
        if not run["reason"]:
            groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    rows = [
        {
            "values": dict(zip(keys, values, strict=True)),
            "seeds": [run["seed"] for run in group],
            **over_splits(group, tuple(f for f in group[0] if f in _numbers(test))),
        }
        for values, group in groups.items()
    ]
    return {
        "keys": keys,
        "axes": {key: values for key, values in axes.items() if len(values) > 1},
        "labels": list(test.labels) if test else [],
        "eval": test and {"data": str(test.shards.root), "samples": len(test.shards),
                          "clips": test.clips, "split": test.split, "seed": test.seed},
        "runs": [*runs, *scratch.values()],
        "rows": rows,
    }  # fmt: skip


def _numbers(test: Test | None) -> list[str]:
    """The figures that have a mean."""
    names = ["samples", "seconds", "nmi_audio_video"]
    for label in test.labels if test else ():
        names += [f"{label}_{m}_{f}" for m in MODALITIES for f in ("accuracy", "nmi", "other_nmi")]
    return names


def _axes(settings: tuple[str, ...]) -> dict[str, list[str]]:
    """{key: its values} of KEY=VALUE,VALUE."""
    axes: dict[str, list[str]] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign:
            raise UserError(f"{setting}: settings are given as KEY=VALUE or KEY=VALUE,VALUE")
        if key in axes:
            raise UserError(f"{setting}: '{key}' is given twice; give its values as {key}=A,B")
        parts = re.split(r",(?![^\[]*\])", text)
        if key in WHOLE or (key == "data" and not all(Path(part).is_dir() for part in parts)):
            parts = [text]
        axes[key] = list(dict.fromkeys(parts))
    return axes


def _show(recipe: Recipe, key: str) -> str:
    value = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return Path(value).name if key == "data" else str(value)


def _finished(root: Path) -> bool:
    return (root / "encoders.pt").is_file() and (root / "checkpoint.pt").is_file()


def _train(recipe: Recipe) -> Run:
    if not _finished(Path(recipe.out)):
        pretrain(recipe)
        return Run.open(recipe.out)
    return Run.start(recipe, ShardSet(recipe.data).fingerprint)  # refuses other runs


def _probe(run: Run, trial: Trial, test: Test | None) -> None:
    labels = test.labels if test else ()
    missing = [label for label in labels if _kept_probe(run.root, trial, test, label) is None]
    if missing:
        features = both_features(run, test.shards, test.clips)
        for label in missing:
            probe(
                run, test.shards, label, split=test.split, test_share=TEST_SHARE,
                clips=test.clips, seed=test.seed, k=trial.clusters, features=features,
            )  # fmt: skip


def _kept_probe(root: Path, trial: Trial, test: Test, label: str) -> dict | None:
    """RUN/probes/LABEL.json when it is of the same data and options, after the whole training."""
    path = root / "probes" / (label.replace("/", "_") + ".json")
    if not path.is_file():
        return None
    kept = json.loads(path.read_text())
    asked = {
        "label": label, "data": test.data, "split": test.split, "test_share": TEST_SHARE,
        "clips": test.clips, "seed": test.seed, "k": trial.clusters, "finished": True,
    }  # fmt: skip
    return kept if asked.items() <= kept.items() else None


def _of_probes(probes: list[dict], accuracies: str, nmis: str) -> dict:
    figures = {}
    for result in probes:
        label = result["label"]
        aside = (label, result["split"], *GROUP_COLUMNS)
        figures[f"{label}_chance"] = result["chance"]
        for modality in MODALITIES:
            nmi = result[nmis][modality]
            others = {column: value for column, value in nmi.items() if column not in aside}
            most = max(others, key=others.__getitem__, default=None)
            figures |= {
                f"{label}_{modality}_accuracy": result[modality][accuracies],
                f"{label}_{modality}_nmi": nmi[label],
                f"{label}_{modality}_other": most,
                f"{label}_{modality}_other_nmi": others.get(most),
            }
    return figures
