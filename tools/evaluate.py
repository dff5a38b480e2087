"""`xdc probe`, `finetune`, `svm`, `retrieve` and `extract`: what encoders are good for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.tools import PATH, PLACE, SEED, Number, json_option, print_result

if TYPE_CHECKING:
    from xdc_fast.models.load import Model
    from xdc_fast.ranks import Ranks
    from xdc_fast.shards.dataset import ShardSet
    from xdc_fast.storage import Place

CLIPS = click.IntRange(1, 10_000)
Function = Callable[..., Any]

out_option = click.option(
    "--out",
    type=PLACE,
    metavar="OUT",
    help="Keep the results in this folder. Otherwise they are kept in the run, if WHERE is one.",
)
label_option = click.option(
    "--label", required=True, metavar="COLUMN", help="Predict this label column."
)
random_split_options = (
    click.option(
        "--test-share",
        default=0.3,
        show_default=True,
        type=Number(0.01, 0.99),
        help="The share of the videos that a random split tests on.",
    ),
    click.option(
        "--seed",
        default=0,
        show_default=True,
        type=SEED,
        help="The seed of the random split, and of what else is random.",
    ),
)
splits_option = click.option(
    "--split",
    "columns",
    multiple=True,
    metavar="COLUMN",
    help="Use this label column of train and test, or of folds. May be given several times. "
    "Otherwise the test part is drawn at random, by class.",
)


def clips_option(default: int) -> Function:
    return click.option(
        "--clips",
        default=default,
        show_default=True,
        type=CLIPS,
        help="Read this many equally spaced clips of each video.",
    )


def common(*arguments: str, data_required: bool = True, modality: str | None = None) -> Function:
    """The arguments and options that every evaluation has. modality: the default one."""
    otherwise = "" if modality else " Otherwise each encoder that WHERE and SHARDS have."

    def decorate(command: Function) -> Function:
        return decorated(
            command,
            *(click.argument(name, type=PATH if name == "out" else str) for name in arguments),
            click.argument("settings", nargs=-1, metavar="[KEY=VALUE]..."),
            click.option(
                "--data",
                required=data_required,
                type=PLACE,
                metavar="SHARDS",
                help="Evaluate on this set.",
            ),
            click.option(
                "--recipe",
                type=PATH,
                metavar="RECIPE",
                help="The recipe, where WHERE is random or a .pth file.",
            ),
            click.option(
                "--modality",
                type=click.Choice(["video", "audio"]),
                default=modality,
                show_default=True,
                help=f"Evaluate this encoder alone.{otherwise}",
            ),
            json_option,
        )

    return decorate


def decorated(command: Function, *decorators: Function) -> Function:
    """The command with decorators, in the order in which the help lists them."""
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def classified(command: Function) -> Function:
    """The options of the commands that train classifiers on splits."""
    return decorated(command, label_option, splits_option, *random_split_options, out_option)


@contextmanager
def opened(
    where: str, settings: tuple[str, ...], recipe: Path | None
) -> Iterator[tuple[Model, Ranks]]:
    """The model of a command, and the ranks that share its feature passes."""
    from xdc_fast.ranks import open_ranks

    with open_ranks() as ranks:
        yield open_model(where, settings, recipe), ranks


def open_model(where: str, settings: tuple[str, ...], recipe: Path | None) -> Model:
    from xdc_fast.models.load import load
    from xdc_fast.recipe import load_recipe

    model = load(where, settings, recipe=None if recipe is None else load_recipe(recipe))
    if model.keys and not progress.is_silent():
        click.echo(f"{where}: {model.keys}", err=True)
    return model


def open_set(data: Place, model: Model) -> ShardSet:
    """The set to evaluate on; one on storage is kept where the model's recipe says."""
    from xdc_fast.shards.dataset import ShardSet

    return ShardSet(data, model.recipe.cache, model.recipe.cache_gb)


def source(result: dict) -> str:
    """Where the encoders of a result come from."""
    return result["where"] if result["finished"] else f"{result['where']} (unfinished)"


@click.command()
@common("where")
@label_option
@click.option(
    "--split",
    metavar="COLUMN",
    help="Use this label column of train and test. Otherwise the test part is drawn at random, by "
    "class.",
)
@random_split_options[0]
@random_split_options[1]
@clips_option(3)
@out_option
def probe(
    where: str,
    settings: tuple[str, ...],
    data: Place,
    recipe: Path | None,
    modality: str | None,
    as_json: bool,
    label: str,
    split: str | None,
    test_share: float,
    seed: int,
    clips: int,
    out: Place | None,
) -> None:
    """Train a linear probe on the frozen encoders of WHERE, and on the same ones before training.

    WHERE is a run, a checkpoint, an export, an XDC .pth file, or random with --recipe. KEY=VALUE
    changes a setting of its recipe, such as device=cpu.
    """
    from xdc_fast.evaluation.probe import ProbeSettings, probe

    how = ProbeSettings(split, test_share, clips, seed)
    with opened(where, settings, recipe) as (model, ranks):
        result = probe(
            model, open_set(data, model), label, how, modality=modality, out=out, ranks=ranks
        )
    print_result(result, describe_probe(result), as_json)


def describe_probe(result: dict) -> Iterator[str]:
    yield (
        f"{source(result)}: {result['label']}, {result['classes']} classes, {result['train']} "
        f"training and {result['test']} test videos, chance {result['chance']:.1%}"
    )
    yield f"{'':8}{'pretrained':>12}{'random':>10}{'gain':>8}"
    for name in result["nmi"]:
        ours, random = result[name]["pretrained"], result[name]["random"]
        yield f"{name:8}{ours:12.1%}{random:10.1%}{100 * (ours - random):+8.1f}"


@click.command()
@common("where")
@classified
@click.option("--only-head", is_flag=True, help="Train the classifier alone (fc-only).")
@click.option(
    "--preset",
    type=click.Choice(["ucf101", "hmdb51", "esc50", "dcase"]),
    help="Take the options below as they are usual for this set. docs/study.md lists them.",
)
@click.option(
    "--epochs", type=click.IntRange(1, 10_000), help="Passes over the training part, usually 12."
)
@click.option("--batch", type=click.IntRange(1, 100_000), help="Clips per step, usually 32.")
@click.option("--lr", type=Number(0, 100), help="Learning rate of the encoder, usually 0.01.")
@click.option(
    "--head-lr", type=Number(0, 100), help="Learning rate of the classifier, usually 0.1."
)
@click.option(
    "--clips",
    type=CLIPS,
    help="Read this many equally spaced clips of each test video, usually 10.",
)
def finetune(
    where: str,
    settings: tuple[str, ...],
    data: Place,
    recipe: Path | None,
    modality: str | None,
    as_json: bool,
    label: str,
    columns: tuple[str, ...],
    test_share: float,
    seed: int,
    out: Place | None,
    only_head: bool,
    preset: str | None,
    **own: Any,
) -> None:
    """Fine-tune the encoders of WHERE with a classifier, and test it.

    With --only-head the classifier alone is trained. WHERE is a run, a checkpoint, an export, an
    XDC .pth file, or random with --recipe, which is the scratch baseline. KEY=VALUE changes a
    setting of its recipe, such as video.frames=32.

    The result of each split is kept in the run or in --out as soon as it is there. When the command
    is started again, it computes the splits that are missing.
    """
    from xdc_fast.evaluation.finetune import METRICS, PRESETS, FinetuneSettings, finetune

    given = {name: value for name, value in own.items() if value is not None}
    how = replace(PRESETS[preset] if preset else FinetuneSettings(), **given)
    with opened(where, settings, recipe) as (model, ranks):
        results = finetune(
            model, open_set(data, model), label, columns, modality=modality, only_head=only_head,
            settings=how, test_share=test_share, seed=seed, out=out, ranks=ranks,
        )  # fmt: skip
    tables = [
        describe_splits(f"{name}, {result['mode']}", result, METRICS)
        for name, result in results.items()
    ]
    print_result(results, chain(*tables), as_json)


@click.command()
@common("where", modality="audio")
@classified
@clips_option(10)
def svm(
    where: str,
    settings: tuple[str, ...],
    data: Place,
    recipe: Path | None,
    modality: str,
    as_json: bool,
    label: str,
    columns: tuple[str, ...],
    test_share: float,
    seed: int,
    out: Place | None,
    clips: int,
) -> None:
    """Train a linear SVM on frozen features of WHERE.

    WHERE is a run, a checkpoint, an export, an XDC .pth file, or random with --recipe. KEY=VALUE
    changes a setting of its recipe: audio.frames=200 makes clips of 2 s. The paper is recalled to
    take 10 clips for ESC-50 and 60 for DCASE; this is not confirmed.
    """
    from xdc_fast.evaluation.svm import svm

    with opened(where, settings, recipe) as (model, ranks):
        result = svm(
            model, open_set(data, model), label, columns, modality=modality, clips=clips,
            test_share=test_share, seed=seed, out=out, ranks=ranks,
        )  # fmt: skip
    lines = describe_splits(f"{modality}, linear SVM", result, ("accuracy",))
    print_result(result, lines, as_json)


def describe_splits(title: str, result: dict, metrics: tuple[str, ...]) -> Iterator[str]:
    """A table: a row per split, then mean and spread."""

    def line(name: str, train: int | str, test: int | str, values: dict) -> str:
        cells = ["-" if values[m] is None else f"{values[m]:.1%}" for m in metrics]
        return f"{name:20}{train:>8}{test:>8}" + "".join(f"{cell:>12}" for cell in cells)

    yield f"{source(result)}: {title}, {result['classes']} classes of {result['label']}"
    yield f"{'split':20}{'train':>8}{'test':>8}" + "".join(f"{m:>12}" for m in metrics)
    for row in result["splits"]:
        yield line(row["split"], row["train"], row["test"], row)
    yield line("mean", "", "", result["mean"])
    yield line("spread", "", "", result["spread"])


@click.command()
@common("where")
@click.option(
    "--label", metavar="COLUMN", help="Count neighbours of the same class in this label column."
)
@click.option(
    "--split",
    "columns",
    multiple=True,
    metavar="COLUMN",
    help="Search the training part of this label column for videos of its test part. Otherwise all "
    "videos are searched for each.",
)
@clips_option(10)
@out_option
def retrieve(
    where: str,
    settings: tuple[str, ...],
    data: Place,
    recipe: Path | None,
    modality: str | None,
    as_json: bool,
    label: str | None,
    columns: tuple[str, ...],
    clips: int,
    out: Place | None,
) -> None:
    """Find nearest neighbours by the features of WHERE, within and across modalities.

    Within a modality, --label names the column that says which videos are alike. R@k is the share
    of videos with one of their class among the k nearest. NN@k is the accuracy of a vote of the k
    nearest. Across modalities, the other track of the same video is searched for; this needs a run
    that kept its cluster heads.

    WHERE is a run, a checkpoint, an export, an XDC .pth file, or random with --recipe. KEY=VALUE
    changes a setting of its recipe.
    """
    from xdc_fast.evaluation.retrieve import retrieve

    with opened(where, settings, recipe) as (model, ranks):
        result = retrieve(
            model, open_set(data, model), label, columns, modality=modality, clips=clips, out=out,
            ranks=ranks,
        )  # fmt: skip
    print_result(result, describe_retrieval(result), as_json)


def describe_retrieval(result: dict) -> Iterator[str]:
    from xdc_fast.evaluation.neighbours import RANKS

    label, ranks = result["label"], [f"R@{k}" for k in RANKS]
    rows = {f"{name} by {label}": within["mean"] for name, within in result["within"].items()}
    for way, kinds in result["across"].items():
        rows |= {
            f"{way} {'own' if kind == 'own' else f'by {label}'}": metrics
            for kind, metrics in kinds.items()
        }
    votes = list(dict.fromkeys(m for metrics in rows.values() for m in metrics if m[:2] == "NN"))
    yield f"{source(result)}: {result['videos']} videos; chance in brackets"
    yield f"{'':24}" + "".join(f"{name:>16}" for name in ranks + votes)
    for name, metrics in rows.items():
        cells = [f"{metrics[r]:.1%} ({metrics['chance ' + r]:.1%})" for r in ranks]
        cells += [f"{metrics[v]:.1%}" for v in votes if v in metrics]
        yield f"{name:24}" + "".join(f"{cell:>16}" for cell in cells)
    if result["note"]:
        yield result["note"]


@click.command()
@common("where", "out", data_required=False)
@click.option(
    "--media",
    type=PATH,
    metavar="FOLDER",
    help="Read the media files in this folder, which need not be packed, in place of a set.",
)
@click.option(
    "--stride",
    default=1.0,
    show_default=True,
    type=Number(0.001, 86_400),
    help="Seconds from one clip to the next.",
)
def extract(
    where: str,
    settings: tuple[str, ...],
    data: Place | None,
    recipe: Path | None,
    modality: str | None,
    as_json: bool,
    out: Path,
    media: Path | None,
    stride: float,
) -> None:
    """Write features of WHERE all along every video, with their times, to the folder OUT.

    The videos are those of a shard set (--data) or of a folder of media files (--media). With
    --media, files that cannot be decoded are left out, and OUT/refused.csv lists them. The same
    command continues an interrupted extraction.

    WHERE is a run, a checkpoint, an export, an XDC .pth file, or random with --recipe. KEY=VALUE
    changes a setting of its recipe.
    """
    from xdc_fast.evaluation.extract import extract_features
    from xdc_fast.evaluation.extract_media import extract_media

    if (data is None) == (media is None):
        raise UserError("give either --data SHARDS or --media FOLDER")
    with opened(where, settings, recipe) as (model, ranks):
        if data is not None:
            result = extract_features(
                model, open_set(data, model), out, stride, modality=modality, ranks=ranks
            )
        elif media is not None:
            result = extract_media(model, media, out, stride, modality=modality, ranks=ranks)
    print_result(result, describe_extraction(result, out), as_json)


def describe_extraction(result: dict, out: Path) -> Iterator[str]:
    count, samples, stride = result["clips"], result["samples"], result["stride"]
    kind = "files" if "refused" in result else "samples"
    yield f"{out}: {count} clips of {samples} {kind} by {source(result)}, one per {stride} s"
    if failed := result.get("refused"):
        yield f"{failed} files have no features; {out / 'refused.csv'} says why"
    if failed := result.get("n_unreadable"):
        yield f"{failed} clips could not be read; run `xdc-shard verify {result['data']}`"
