"""Every setting of a run, once. Files in recipes/ and KEY=VALUE arguments override the defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from xdc_fast.errors import UserError


def setting(default: Any, text: str, **limits: Any) -> Any:
    """A field of a recipe: its default, its meaning, and what it may be.

    limits: least and most (the ends of its range), above (a value that it must exceed), even,
    choices, length.
    """
    return field(default=default, metadata={"text": text, **limits})


@dataclass(frozen=True)
class Video:
    """The pictures of a clip, and the encoder that reads them."""

    encoder: str = setting("r2plus1d_18", "r2plus1d_18, or for CPUs r2plus1d_small, r2plus1d_tiny")
    frames: int = setting(8, "pictures in a clip", least=1)
    fps: float = setting(7.5, "pictures per second within a clip", above=0)
    crop: int = setting(112, "side of the square crop in pixels", least=1)
    flip: bool = setting(True, "mirror half of the training clips left to right")
    jitter: float = setting(
        0.0,
        "training: contrast in 1 +- jitter, brightness in +- jitter x 127.5, drawn per clip",
        least=0,
    )
    mean: tuple[float, ...] = setting(
        (0.43216, 0.394666, 0.37645),
        "RGB mean on [0, 1]; the default is that of the released XDC weights",
        length=3,
    )
    std: tuple[float, ...] = setting(
        (0.22803, 0.22145, 0.216989),
        "RGB standard deviation on [0, 1], as video.mean",
        above=0,
        length=3,
    )


@dataclass(frozen=True)
class Audio:
    """The log-mel spectrogram of a clip, and the encoder that reads it."""

    encoder: str = setting("audio_resnet18", "audio_resnet18, or for CPUs audio_small, audio_tiny")
    sample_rate: int = setting(16000, "samples per second; what the shards hold", least=1)
    frames: int = setting(100, "spectrogram frames in a clip", least=1)
    n_mels: int = setting(40, "mel filters", least=1)
    win_length: int = setting(256, "samples per frame (16 ms)", least=1)
    hop_length: int = setting(160, "samples from one frame to the next (10 ms)", least=1)
    jitter: float = setting(
        0.0, "training: standard deviation of a shift of the whole log-mel, in nats", least=0
    )
    mean: float = setting(-6.0, "subtracted from the log-mel")
    std: float = setting(4.0, "the log-mel is then divided by it", above=0)


@dataclass(frozen=True)
class Cluster:
    """From features to clusters. The paper's preprocessing is unknown: the defaults are ours."""

    normalize: str = setting(
        "none",
        "none, l2, or centered-l2 (the mean of the set is subtracted first)",
        choices=("none", "l2", "centered-l2"),
    )
    pca: int = setting(0, "whitened principal components kept; 0: no PCA", least=0)
    max_iter: int = setting(
        20,
        "k-means rounds at most; it stops when a round lowers the mean squared distance by less "
        "than 0.1 %",
        least=1,
    )
    n_init: int = setting(1, "random starts; the best one is used", least=1)
    warm_start: bool = setting(
        True, "after the first iteration, start from the last clusters instead of from scratch"
    )
    features: str = setting(
        "pass",
        "pass: features of a pass over the set; training: features that the last epoch computed (a "
        "memory bank)",
        choices=("pass", "training"),
    )
    max_samples: int = setting(
        0, "samples that k-means is fitted on, drawn at random; 0: all of them", least=0
    )


@dataclass(frozen=True)
class Train:
    """The training that follows each clustering."""

    iterations: int = setting(5, "clusterings, each with its training", least=1)
    epochs: int = setting(3, "passes over the set per iteration", least=1)
    steps: int = setting(
        0, "steps per iteration, in place of `epochs`; 0: as many as the epochs have", least=0
    )
    batch: int = setting(64, "clips per step", least=1)
    lr: float = setting(
        0.1, "peak learning rate: warm-up, then cosine to zero, anew in each iteration", above=0
    )
    momentum: float = setting(0.9, "momentum of SGD", least=0)
    weight_decay: float = setting(1e-4, "weight decay of SGD", least=0)
    warmup: int = setting(20, "steps of linear warm-up", least=0)
    precision: str = setting(
        "float32", "float32 or bfloat16 (autocast)", choices=("float32", "bfloat16")
    )
    compile: bool = setting(False, "torch.compile the encoders")
    checkpoint_steps: int = setting(500, "steps between checkpoints within an iteration", least=1)
    heads: str = setting(
        "kept",
        "kept: heads continue from the last iteration, if cluster.warm_start keeps its clusters; "
        "new: heads are drawn anew",
        choices=("kept", "new"),
    )
    balance: str = setting(
        "auto",
        "weight clips so that all clusters count alike; auto: for method=sdc only",
        choices=("auto", "always", "never"),
    )


@dataclass(frozen=True)
class Recipe:
    """One run."""

    data: str = setting("", "folder of a shard set, as `xdc-shard pack` makes it")
    out: str = setting("", "folder of the run; an existing run there is resumed")
    method: str = setting(
        "xdc",
        "which clusterings label which heads: xdc, sdc, mdc, cdc, same (the control: two encoders "
        "of each modality) or supervised",
    )
    label: str = setting(
        "", "label column that method=supervised predicts; the other methods read no label"
    )
    split: str = setting(
        "",
        "label column; method=supervised learns from its `train` samples; empty: from all with a "
        "label",
    )
    k: int = setting(128, "clusters per clustering", least=1)
    seed: int = setting(0, "seed of everything random", least=0)
    device: str = setting("auto", "auto: cuda where there is one", choices=("auto", "cpu", "cuda"))
    loader: str = setting(
        "auto",
        "auto: dali for JPEG packets on a CUDA device, else host",
        choices=("auto", "host", "dali"),
    )
    threads: int = setting(2, "loader threads", least=1)
    video: Video = field(default_factory=Video)
    audio: Audio = field(default_factory=Audio)
    cluster: Cluster = field(default_factory=Cluster)
    train: Train = field(default_factory=Train)


Settings = TypeVar("Settings", Recipe, Video, Audio, Cluster, Train)
GROUPS = {"video": Video, "audio": Audio, "cluster": Cluster, "train": Train}
RENAMED = {
    "video.rate": "video.fps",
    "audio.rate": "audio.sample_rate",
    "audio.mels": "audio.n_mels",
    "audio.window": "audio.win_length",
    "audio.hop": "audio.hop_length",
    "cluster.rounds": "cluster.max_iter",
    "cluster.restarts": "cluster.n_init",
    "cluster.warm": "cluster.warm_start",
    "cluster.points": "cluster.max_samples",
}


Overrides = Iterable[str] | Mapping[str, object]  # ("train.lr=0.05",) or {"train.lr": 0.05}


def load_recipe(path: str | Path | None = None, overrides: Overrides = ()) -> Recipe:
    """A recipe from a YAML file and overrides, checked.

    overrides: as ("train.lr=0.05",) or as {"train.lr": 0.05}.

    Raises UserError for unknown keys (with the closest known one), values of the wrong type, and
    values out of range.
    """
    return read_recipe({} if path is None else _read(path), str(path), overrides)


def read_recipe(values: dict, source: str, overrides: Overrides = ()) -> Recipe:
    """A recipe from its YAML content, as load_recipe; `source` is named in errors."""
    return override(_fill(Recipe, values, source, ""), overrides)


def override(recipe: Recipe, overrides: Overrides) -> Recipe:
    """The recipe with settings changed, checked; arguments and errors as of load_recipe."""
    for key, value in _pairs(overrides):
        *groups, name = key.split(".")
        nested: dict = {name: value}
        for group in reversed(groups):
            nested = {group: nested}
        recipe = _fill(Recipe, nested, f"{key}={value}", "", recipe)
    _check(recipe)
    return recipe


def _pairs(overrides: Overrides) -> Iterator[tuple[str, object]]:
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    for text in (overrides,) if isinstance(overrides, str) else overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"{text}: settings are given as KEY=VALUE, such as train.lr=0.05")
        yield key, Text(value)


def _read(path: str | Path) -> dict:
    """The mapping that a YAML file holds."""
    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; recipes/ holds examples") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; recipes/ holds examples") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a mapping of settings, as in recipes/toy.yaml")
    return values


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that load_recipe reads back to an equal one."""
    plain = dataclasses.asdict(recipe, dict_factory=lambda items: {k: _plain(v) for k, v in items})
    return yaml.safe_dump(plain, sort_keys=False)


def describe() -> str:
    """Every setting with its default and meaning, a line each."""
    return "\n".join(
        f"{name:24} {_plain(known.default)!s:24} {known.metadata['text']}"
        for name, known in settings()
    )


def settings() -> Iterator[tuple[str, Field]]:
    """Every setting as (dotted name, its field): default, and text and limits as metadata."""
    for known in dataclasses.fields(Recipe):
        if known.name not in GROUPS:
            yield known.name, known
    for group, kind in GROUPS.items():
        for known in dataclasses.fields(kind):
            yield f"{group}.{known.name}", known


def flatten(recipe: Recipe) -> dict[str, object]:
    """The recipe as {dotted name: value}."""
    return {name: get(recipe, name) for name, _ in settings()}


def get(recipe: Recipe, name: str) -> object:
    """The value of a setting by its dotted name."""
    return reduce(getattr, name.split("."), recipe)


class Text(str):
    """The value of a KEY=VALUE argument: read as YAML, unless the setting is text itself."""


def _check(recipe: Recipe) -> None:
    """Raises UserError for a value out of range."""
    for name, known in settings():
        value = get(recipe, name)
        wrong = fault(value, known.metadata)
        if wrong:
            raise UserError(f"{name}={_plain(value)}: must be {wrong}")


def fault(value: object, limits: Mapping) -> str:
    """What a value must be, where it is not; empty where it is."""
    items = value if isinstance(value, tuple) else (value,)
    if len(items) != limits.get("length", len(items)):
        return f"{limits['length']} numbers"
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        return "finite"
    if "choices" in limits and value not in limits["choices"]:
        return "one of " + ", ".join(limits["choices"])
    if "least" in limits and any(item < limits["least"] for item in items):
        return f"{limits['least']} or more"
    if "most" in limits and any(item > limits["most"] for item in items):
        return f"{limits['most']} or less"
    if limits.get("even") and any(item % 2 for item in items):
        return "even"
    if "above" in limits and any(item <= limits["above"] for item in items):
        return f"above {limits['above']}"
    return ""


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _fill(
    cls: type[Settings], values: dict, source: str, prefix: str, base: Settings | None = None
) -> Settings:
    """An instance of a settings class with some fields replaced."""
    hints = get_type_hints(cls)
    changes = {}
    for key, value in values.items():
        if (new := RENAMED.get(f"{prefix}{key}")) is not None:
            raise UserError(f"{source}: `{prefix}{key}` is now `{new}`")
        if key not in hints:
            near = get_close_matches(str(key), hints, n=1)
            known = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(hints)}"
            raise UserError(f"{source}: no setting '{prefix}{key}'; {known}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(f"{source}: '{prefix}{key}' is a group; set {prefix}{key}.NAME")
            part = getattr(base, key) if base else None
            changes[key] = _fill(hints[key], value, source, f"{prefix}{key}.", part)
        else:
            changes[key] = _cast(hints[key], value, f"{source}: {prefix}{key}")
    return dataclasses.replace(base, **changes) if base else cls(**changes)


def _cast(kind: Any, value: object, name: str) -> object:
    """A value as the type of its setting; UserError, which begins with `name`, for another."""
    if isinstance(value, Text):
        if kind is str:
            return str(value)
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            value = str(value)
    if kind is float and isinstance(value, str):  # YAML reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and value is not None and not isinstance(value, (dict, list)):
        return str(value)
    if kind == tuple[float, ...] and isinstance(value, (list, tuple)):
        return tuple(_cast(float, item, name) for item in value)
    if kind in (int, bool, float) and type(value) is kind:
        return value
    expected = "a list of numbers" if kind == tuple[float, ...] else f"of type {kind.__name__}"
    raise UserError(f"{name}: {value!r} is not {expected}")
