"""`xdc probe`, `finetune`, `svm`, `retrieve` and `extract`: what encoders are good for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

MODALITIES = click.Choice(["video", "audio"])


def common(*arguments: str):
    """The arguments and options that every downstream command has."""

    def decorate(command):
        for add in (
            click.option("--json", "as_json", is_flag=True, help="print one JSON line"),
            click.option(
                "--recipe", type=click.Path(path_type=Path), help="for WHERE random or .pth"
            ),
            click.option(
                "--data", required=True, type=click.Path(path_type=Path), help="a shard set"
            ),
            click.argument("settings", nargs=-1, metavar="[KEY=VALUE]..."),
            *(click.argument(name) for name in reversed(arguments)),
        ):
            command = add(command)
        return command

    return decorate


def classified(command):
    """The options of the commands that classify."""
    for add in (
        click.option("--label", required=True, help="the label column to predict"),
        click.option(
            "--split", "columns", multiple=True, metavar="COLUMN",
            help="a label column of train and test, or of folds; may be given several times; "
            "otherwise 30 % are the test part, at random",
        ),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0)),
    ):  # fmt: skip
        command = add(command)
    return command


keeping = click.option(
    "--out", type=click.Path(path_type=Path), help="keep the results there, not in the run"
)


def open_model(where: str, settings: tuple[str, ...], recipe: Path | None):
    from xdc_fast.models.load import load
    from xdc_fast.recipe import load_recipe

    model = load(where, settings, recipe=None if recipe is None else load_recipe(recipe))
    if model.keys:
        click.echo(f"{where}: {model.keys}", err=True)
    return model


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="a shard set")
@click.option("--label", required=True, help="the label column to predict")
@click.option("--split", help="a label column of train and test; otherwise at random, by class")
@click.option("--test-share", default=0.3, show_default=True, type=click.FloatRange(0.01, 0.99))
@click.option("--clips", default=3, show_default=True, type=click.IntRange(1), help="per video")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="of the random split"
)
@click.option("--json", "as_json", is_flag=True, help="print the result as one JSON line")
def probe(run, data, label, split, test_share, clips, seed, as_json) -> None:
    """Linear probe of RUN's frozen encoders, beside the same encoders before training."""
    from xdc_fast.evaluation.probe import probe
    from xdc_fast.pretraining.run import Run
    from xdc_fast.shards.dataset import ShardSet

    result = probe(
        Run.open(run), ShardSet(data), label,
        split=split, test_share=test_share, clips=clips, seed=seed,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{label}: {result['classes']} classes, {result['train']} training and "
        f"{result['test']} test videos, chance {result['chance']:.1%}"
    )
    click.echo(f"{'':8}{'pretrained':>12}{'random':>10}{'gain':>8}")
    for modality in ("video", "audio"):
        ours, random = result[modality]["pretrained"], result[modality]["random"]
        click.echo(f"{modality:8}{ours:12.1%}{random:10.1%}{100 * (ours - random):+8.1f}")


@click.command()
@common("where")
@classified
@keeping
@click.option("--modality", type=MODALITIES, help="one of them; otherwise each that there is")
@click.option("--only-head", is_flag=True, help="train the classifier alone (fc-only)")
@click.option(
    "--preset",
    type=click.Choice(["ucf101", "hmdb51", "esc50", "dcase"]),
    help="the options below as they are usual for this set; docs/study.md lists them",
)
@click.option("--epochs", type=click.IntRange(1), help="otherwise 12")
@click.option("--batch", type=click.IntRange(1), help="clips per step, otherwise 32")
@click.option("--lr", type=click.FloatRange(0), help="of the encoder, otherwise 0.01")
@click.option("--head-lr", type=click.FloatRange(0), help="of the classifier, otherwise 0.1")
@click.option("--clips", type=click.IntRange(1), help="per video at test, otherwise 10")
def finetune(
    where,
    settings,
    data,
    recipe,
    as_json,
    label,
    columns,
    seed,
    out,
    modality,
    only_head,
    preset,
    **own,
) -> None:
    """Train a classifier on the encoders of WHERE, with them or --only-head, and test it.

    WHERE: a run, a checkpoint, an export, an XDC .pth file, or random with --recipe, the scratch
    baseline. KEY=VALUE overrides its recipe: video.frames=32
    Of a run, or with --out, each split's result is kept when it is there; started again, the others
    are made.
    """
    from xdc_fast.evaluation.finetune import FIGURES, PRESETS, FinetuneSettings, finetune
    from xdc_fast.shards.dataset import ShardSet

    given = {name: value for name, value in own.items() if value is not None}
    how = replace(PRESETS[preset] if preset else FinetuneSettings(), **given)
    results = finetune(
        open_model(where, settings, recipe), ShardSet(data), label, columns,
        modality=modality, only_head=only_head, settings=how, seed=seed, out=out,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(results))
        return
    for name, result in results.items():
        print_splits(f"{name}, {result['mode']}", result, FIGURES)


@click.command()
@common("where")
@classified
@keeping
@click.option("--modality", default="audio", show_default=True, type=MODALITIES)
@click.option(
    "--windows", default=10, show_default=True, type=click.IntRange(1), help="per recording"
)
def svm(
    where, settings, data, recipe, as_json, label, columns, seed, out, modality, windows
) -> None:
    """Linear SVM on frozen features of WHERE.

    For windows of 2 s: audio.frames=200. Of the paper 10 windows are recalled for ESC-50, 60 for
    DCASE.
    """
    from xdc_fast.evaluation.svm import svm
    from xdc_fast.shards.dataset import ShardSet

    result = svm(
        open_model(where, settings, recipe), ShardSet(data), label, columns,
        modality=modality, windows=windows, seed=seed, out=out,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(result))
        return
    print_splits(f"{modality}, linear SVM", result, ("accuracy",))


def print_splits(title: str, result: dict, figures: tuple[str, ...]) -> None:
    """A table: a row per split, then mean and spread."""

    def line(name: str, train, test, values: dict) -> str:
        cells = ["-" if values[f] is None else f"{values[f]:.1%}" for f in figures]
        return f"{name:20}{train:>8}{test:>8}" + "".join(f"{cell:>12}" for cell in cells)

    click.echo(f"{result['where']}: {title}, {result['classes']} classes of {result['label']}")
    click.echo(f"{'split':20}{'train':>8}{'test':>8}" + "".join(f"{f:>12}" for f in figures))
    for row in result["splits"]:
        click.echo(line(row["split"], row["train"], row["test"], row))
    click.echo(line("mean", "", "", result["mean"]))
    click.echo(line("spread", "", "", result["spread"]))


@click.command()
@common("where")
@click.option("--label", help="the label column whose classes are to agree")
@click.option(
    "--split", "columns", multiple=True, metavar="COLUMN",
    help="search the training part for videos of the test part; otherwise all for all",
)  # fmt: skip
@click.option("--clips", default=10, show_default=True, type=click.IntRange(1), help="per video")
@keeping
def retrieve(where, settings, data, recipe, as_json, label, columns, clips, out) -> None:
    """Nearest neighbours by the features of WHERE, within and across modalities.

    Within a modality a --label says what is alike: R@k, the share of videos with one of their
    class among the k nearest, and NN@k, the vote of the k nearest. Across modalities a video's own
    other track is sought; that needs a run that kept its cluster heads.
    """
    from xdc_fast.evaluation.neighbours import RANKS
    from xdc_fast.evaluation.retrieve import retrieve
    from xdc_fast.shards.dataset import ShardSet

    result = retrieve(open_model(where, settings, recipe), ShardSet(data), label, columns,
                      clips=clips, out=out)  # fmt: skip
    if as_json:
        click.echo(json.dumps(result))
        return
    ranks = [f"R@{k}" for k in RANKS]
    rows = {f"{name} by {label}": within["mean"] for name, within in result["within"].items()}
    for way, kinds in result["across"].items():
        rows |= {
            f"{way} {'own' if kind == 'own' else 'by ' + label}": figures
            for kind, figures in kinds.items()
        }
    votes = list(dict.fromkeys(f for figures in rows.values() for f in figures if f[:2] == "NN"))
    click.echo(f"{result['where']}: {result['videos']} videos; chance in brackets")
    click.echo(f"{'':24}" + "".join(f"{name:>16}" for name in ranks + votes))
    for name, figures in rows.items():
        cells = [f"{figures[r]:.1%} ({figures['chance ' + r]:.1%})" for r in ranks]
        cells += [f"{figures[v]:.1%}" for v in votes if v in figures]
        click.echo(f"{name:24}" + "".join(f"{cell:>16}" for cell in cells))
    if result["note"]:
        click.echo(result["note"])


@click.command()
@common("where", "out")
@click.option(
    "--stride", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True),
    help="seconds from one clip to the next",
)  # fmt: skip
def extract(where, settings, data, recipe, as_json, out, stride) -> None:
    """Features of WHERE all along every video, with their times, to npz files in the folder OUT.

    An interrupted extraction goes on with the same command.
    """
    from xdc_fast.evaluation.extract import extract_features
    from xdc_fast.shards.dataset import ShardSet

    result = extract_features(open_model(where, settings, recipe), ShardSet(data), out, stride)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"{out}: {result['clips']} clips of {result['samples']} samples, one per {stride} s")
    if result["unread"]:
        click.echo(f"{result['unread']} clips could not be read; run `xdc-shard verify {data}`")
