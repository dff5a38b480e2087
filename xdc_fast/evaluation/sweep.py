"""A sweep: its runs are made where they are missing, then probed, then tabulated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import clip_settings
from xdc_fast.evaluation.probe import ProbeSettings, probe_labels
from xdc_fast.evaluation.results import read_probe
from xdc_fast.evaluation.splits import GROUP_COLUMNS, classes_of, over_splits
from xdc_fast.evaluation.trials import Trial
from xdc_fast.interrupt import raising
from xdc_fast.models.load import load
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet

SCRATCH = "scratch"  # in place of a method: the encoders before any training


@dataclass(frozen=True)
class ProbeTask:
    """What finished runs are probed on; settings.k is each trial's own.

    Raises UserError for a track or a column that the set lacks.
    """

    shards: ShardSet
    labels: tuple[str, ...]
    settings: ProbeSettings = field(default_factory=ProbeSettings)

    def __post_init__(self) -> None:
        if self.shards.modalities != MODALITIES:
            raise UserError(
                f"{self.shards.root}: holds {self.shards.modalities[0]} only, a sweep probes the "
                "encoders of both tracks; pack with --tracks both"
            )
        split = self.settings.split
        for column in (*self.labels, *((split,) if split else ())):
            classes_of(self.shards, column)


def run_trial(trial: Trial, task: ProbeTask | None) -> Run:
    """Trains what is missing of a run and makes what is missing of its probes.

    Raises UserError when the run or a probe is refused, Busy when another process is at work on
    it, Interrupted after SIGINT or SIGTERM; then the same call goes on.
    """
    if task is not None:
        check_leakage_ahead(trial.recipe, task)
    with raising():
        run = _train(trial.recipe)
        with run.hold():
            if task is not None:
                _probe(run, trial, task)
    return run


def open_set(recipe: Recipe) -> ShardSet:
    """The set that a recipe trains on."""
    return ShardSet(recipe.data, recipe.cache, recipe.cache_gb)


def check_leakage_ahead(recipe: Recipe, task: ProbeTask) -> None:
    """UserError, before the training, for what check_label_leakage would refuse after it."""
    if recipe.method != "supervised" or recipe.label not in task.labels:
        return
    apart = recipe.split and recipe.split == task.settings.split
    if not apart and open_set(recipe).fingerprint == task.shards.fingerprint:
        raise UserError(
            f"{recipe.out}: would learn the label '{recipe.label}' of the videos it is tested on; "
            "name a column of train and test by split=COLUMN and --split COLUMN"
        )


def metrics_of(trial: Trial, task: ProbeTask | None) -> dict | None:
    """What a run came to; None when it is not finished and probed.

    {samples (that it learned from), seconds, nmi_audio_video (of the last iteration, None where the
    method has none)} and for each label LABEL_chance and, with each modality,
    {LABEL_MODALITY_accuracy, _nmi, _other, _other_nmi}: probe accuracy, the NMI of clusters with
    the label, and the column, other than it, with the largest NMI.
    """
    root = Path(trial.recipe.out)
    if not _finished(root):
        return None
    probes = _find_probes(trial, task)
    if task is not None and len(probes) < len(task.labels):
        return None
    summary = Run.open(root).summary()
    learned = summary.get("learned", summary["samples"])  # runs of earlier versions lack it
    metrics = {"samples": learned, "seconds": summary["seconds"]}
    metrics["nmi_audio_video"] = summary["iterations"][-1]["nmi_audio_video"]
    return metrics | _of_probes(probes, "pretrained", "nmi")


def scratch_metrics(trial: Trial, task: ProbeTask) -> dict:
    """The metrics of a finished run's encoders before any training."""
    metrics = {"samples": None, "seconds": None, "nmi_audio_video": None}
    return metrics | _of_probes(_find_probes(trial, task), "random", "nmi_random")


def tabulate(trials: list[Trial], task: ProbeTask | None, reasons: dict[str, str]) -> dict:
    """The state of a sweep, from its folders alone.

    reasons: {name of a run: why it has no metrics}.
    Returns {keys, axes, labels, eval, runs, rows}. axes: those keys that differ, and their values
    (k as it was asked for). eval: what runs are probed on, None where they are not. runs: [{name,
    reason, *keys, seed, *metrics}], reason "" for those that have metrics; then, of each seed and
    each choice of encoders, what they were before any training, of method "scratch" and with the
    k that its NMI is of.
    rows: [{values: {key: ...}, seeds, mean: {metric: ...}, spread: {...}}], over the runs that
    differ in nothing but the seed; the spread is their standard deviation (n - 1).
    """
    keys = [key for key in trials[0].values if key != "seed"]
    asked = [trial.values | {"k": str(trial.clusters)} for trial in trials]
    axes = {key: list(dict.fromkeys(values[key] for values in asked)) for key in keys}
    runs, scratch = [], {}
    for trial in trials:
        try:
            metrics = metrics_of(trial, task)
            reason = "" if metrics else reasons.get(trial.name, "not run yet")
        except UserError as error:  # of a damaged file
            metrics, reason = None, str(error)
        runs.append({"name": trial.name, "reason": reason, **trial.values, **(metrics or {})})
        if metrics and task:
            values = scratch_values(trial)
            start = {"name": "", "reason": "", **values, "k": str(trial.clusters)}
            if (group := tuple(values.values())) not in scratch:
                scratch[group] = start | scratch_metrics(trial, task)
    groups: dict[tuple, list[dict]] = {}
    for run in [*scratch.values(), *runs]:
        if not run["reason"]:
            groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    averaged = _averaged(task)
    rows = [
        {
            "values": dict(zip(keys, values, strict=True)),
            "seeds": [run["seed"] for run in group],
            **over_splits(group, tuple(metric for metric in group[0] if metric in averaged)),
        }
        for values, group in groups.items()
    ]
    return {
        "keys": keys,
        "axes": {key: values for key, values in axes.items() if len(values) > 1},
        "labels": list(task.labels) if task else [],
        "eval": task and _describe(task),
        "runs": [*runs, *scratch.values()],
        "rows": rows,
    }


def scratch_values(trial: Trial) -> dict[str, str]:
    """A trial's values as the row of its encoders before any training: those that these have."""
    own = {k: v if k.startswith(("video.", "audio.")) else "" for k, v in trial.values.items()}
    return own | {"method": SCRATCH, "seed": trial.values["seed"]}


def _describe(task: ProbeTask) -> dict:
    settings = {key: value for key, value in asdict(task.settings).items() if key != "k"}
    return {"data": str(task.shards.root), "samples": len(task.shards), **settings}


def _averaged(task: ProbeTask | None) -> list[str]:
    """The metrics that have a mean."""
    names = ["samples", "seconds", "nmi_audio_video"]
    for label in task.labels if task else ():
        names += [f"{label}_{m}_{f}" for m in MODALITIES for f in ("accuracy", "nmi", "other_nmi")]
    return names


def _finished(root: Path) -> bool:
    return (root / "encoders.pt").is_file() and (root / "checkpoint.pt").is_file()


def _train(recipe: Recipe) -> Run:
    if not _finished(Path(recipe.out)):
        pretrain(recipe)
    return Run.start(recipe, open_set(recipe).fingerprint)  # refuses a run of anything else


def _probe(run: Run, trial: Trial, task: ProbeTask) -> None:
    missing = tuple(label for label in task.labels if not _find_probe(trial, task, label))
    if missing:
        settings = replace(task.settings, k=trial.clusters)
        probe_labels(load(run.place), task.shards, missing, settings)


def _find_probes(trial: Trial, task: ProbeTask | None) -> list[dict]:
    """A finished run's probes of a task, those that there are."""
    labels = task.labels if task else ()
    found = [_find_probe(trial, task, label) for label in labels] if task else []
    return [result for result in found if result is not None]


def _find_probe(trial: Trial, task: ProbeTask, label: str) -> dict | None:
    """The finished run's probe of these very data and settings."""
    recipe = trial.recipe
    wanted = {
        "label": label,
        **asdict(replace(task.settings, k=trial.clusters)),
        "cluster": asdict(recipe.cluster),
        "random_seed": recipe.seed,
        "shards": task.shards.fingerprint,
        "clip": clip_settings(recipe, MODALITIES),
        "finished": True,
    }
    for path in sorted(Path(recipe.out).glob("probes/*.json")):
        result = read_probe(path)
        if wanted.items() <= result.items():
            return result
    return None


def _of_probes(probes: list[dict], accuracies: str, nmis: str) -> dict:
    metrics = {}
    for result in probes:
        label = result["label"]
        aside = (label, result["split"], *GROUP_COLUMNS)
        metrics[f"{label}_chance"] = result["chance"]
        for modality in MODALITIES:
            nmi = result[nmis][modality]
            others = {column: value for column, value in nmi.items() if column not in aside}
            most = max(others, key=others.__getitem__, default=None)
            metrics |= {
                f"{label}_{modality}_accuracy": result[modality][accuracies],
                f"{label}_{modality}_nmi": nmi[label],
                f"{label}_{modality}_other": most,
                f"{label}_{modality}_other_nmi": None if most is None else others[most],
            }
    return metrics
