"""Every setting of a run, once. Files in recipes/ and KEY=VALUE arguments override the defaults."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from xdc_fast.errors import UserError
from xdc_fast.files import read_text

MANY = 1_000_000_000  # samples, steps or clusters: more is a slip
MOST_SEED = 2**32 - 1  # that NumPy and scikit-learn take
DEEPEST = 5  # a recipe has groups of settings, and these may be lists


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
    frames: int = setting(8, "pictures in a clip", least=1, most=10_000)
    fps: float = setting(7.5, "pictures per second within a clip", least=0.01, most=240)
    crop: int = setting(112, "side of the square crop in pixels", least=1, most=4096)
    flip: bool = setting(True, "mirror half of the training clips left to right")
    jitter: float = setting(
        0.0,
        "training: contrast in 1 +- jitter, brightness in +- jitter x 127.5, drawn per clip",
        least=0,
        most=1,
    )
    mean: tuple[float, ...] = setting(
        (0.43216, 0.394666, 0.37645),
        "RGB mean on [0, 1]; the default is that of the released XDC weights",
        least=-1000,
        most=1000,
        length=3,
    )
    std: tuple[float, ...] = setting(
        (0.22803, 0.22145, 0.216989),
        "RGB standard deviation on [0, 1], as video.mean",
        least=0.001,
        most=1000,
        length=3,
    )


@dataclass(frozen=True)
class Audio:
    """The log-mel spectrogram of a clip, and the encoder that reads it."""

    encoder: str = setting("audio_resnet18", "audio_resnet18, or for CPUs audio_small, audio_tiny")
    sample_rate: int = setting(
        16000, "samples per second; what the shards hold", least=1, most=192_000
    )
    frames: int = setting(100, "spectrogram frames in a clip", least=1, most=100_000)
    n_mels: int = setting(40, "mel filters", least=1, most=1024)
    win_length: int = setting(256, "samples per frame (16 ms)", least=1, most=65_536)
    hop_length: int = setting(
        160, "samples from one frame to the next (10 ms)", least=1, most=65_536
    )
    jitter: float = setting(
        0.0,
        "training: standard deviation of a shift of the whole log-mel, in nats",
        least=0,
        most=100,
    )
    mean: float = setting(-6.0, "subtracted from the log-mel", least=-1000, most=1000)
    std: float = setting(4.0, "the log-mel is then divided by it", least=0.001, most=1000)


@dataclass(frozen=True)
class Cluster:
    """From features to clusters. The paper's preprocessing is unknown: the defaults are ours."""

    normalize: str = setting(
        "none",
        "none, l2, or centered-l2 (the mean of the set is subtracted first)",
        choices=("none", "l2", "centered-l2"),
    )
    pca: int = setting(0, "whitened principal components kept; 0: no PCA", least=0, most=4096)
    max_iter: int = setting(
        20,
        "k-means rounds at most; it stops when a round lowers the mean squared distance by less "
        "than 0.1 %",
        least=1,
        most=10_000,
    )
    n_init: int = setting(1, "random starts; the best one is used", least=1, most=1000)
    warm_start: bool = setting(
        True, "after the first iteration, start from the last clusters instead of from scratch"
    )
    features: str = setting(
        "pass",
        "pass: features of a pass over the set; training: features that the last epoch computed (a "
        "memory bank)",
        choices=("pass", "training"),
    )
    precision: str = setting(
        "float32",
        "float32 or float16: how features are kept in memory and on disk",
        choices=("float32", "float16"),
    )
    max_samples: int = setting(
        0,
        "samples that k-means is fitted on, drawn at random; 0: all of them",
        least=0,
        most=MANY,
    )


@dataclass(frozen=True)
class Train:
    """The training that follows each clustering."""

    iterations: int = setting(5, "clusterings, each with its training", least=1, most=100_000)
    epochs: int = setting(3, "passes over the set per iteration", least=1, most=100_000)
    steps: int = setting(
        0,
        "steps per iteration, in place of `epochs`; 0: as many as the epochs have",
        least=0,
        most=MANY,
    )
    batch: int = setting(64, "clips per step, of all processes together", least=1, most=1_000_000)
    group: int = setting(
        0,
        "clips that share the statistics of BatchNorm, and that a process holds at a time; a step "
        "adds up the gradients of its groups; 0: all of the batch",
        least=0,
        most=100_000,
    )
    lr: float = setting(
        0.1,
        "peak learning rate: warm-up, then cosine to zero, anew in each iteration",
        above=0,
        most=100,
    )
    momentum: float = setting(0.9, "momentum of SGD", least=0, most=1)
    weight_decay: float = setting(1e-4, "weight decay of SGD", least=0, most=100)
    warmup: int = setting(20, "steps of linear warm-up", least=0, most=MANY)
    precision: str = setting(
        "float32",
        "float32 or bfloat16 (autocast); on a GPU that of the features too",
        choices=("float32", "bfloat16"),
    )
    all_reduce: str = setting(
        "float32",
        "float32 or bfloat16: how several processes add up gradients; bfloat16 halves the traffic",
        choices=("float32", "bfloat16"),
    )
    compile: bool = setting(False, "torch.compile the encoders")
    checkpoint_steps: int = setting(
        500, "steps between checkpoints within an iteration", least=1, most=MANY
    )
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

    @property
    def group_size(self) -> int:
        """Clips of a group."""
        return self.group or self.batch


@dataclass(frozen=True)
class Recipe:
    """One run."""

    data: str = setting(
        "",
        "a shard set, as `xdc-shard pack` makes it: its folder, or where it is on storage, at "
        "s3://, gs://, az:// or http(s)://",
    )
    out: str = setting("", "folder of the run, or its URL; an existing run there is resumed")
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
        "label column of train and test; the run learns from its `train` samples alone; empty: "
        "from all",
    )
    k: int = setting(128, "clusters per clustering", least=1, most=MANY)
    seed: int = setting(0, "seed of everything random", least=0, most=MOST_SEED)
    device: str = setting("auto", "auto: cuda where there is one", choices=("auto", "cpu", "cuda"))
    loader: str = setting(
        "auto",
        "auto: dali for JPEG packets on a CUDA device, else host",
        choices=("auto", "host", "dali"),
    )
    decoder_load: float = setting(
        0.65,
        "share of the JPEG packets that the hardware decoder of a GPU takes, with loader=dali; the "
        "GPU's cores and the loader's threads decode the others",
        least=0,
        most=1,
    )
    threads: int = setting(2, "loader threads", least=1, most=1024)
    read: str = setting(
        "auto",
        "of a set on storage: ranges (what a clip needs), shards (whole, into the cache), auto: "
        "shards if a clip needs more than a quarter of its sample and the cache has room for them",
        choices=("auto", "ranges", "shards"),
    )
    cache: str = setting(
        "",
        "folder of this machine for what is kept of a set on storage; empty: ~/.cache/xdc_fast",
    )
    cache_gb: float = setting(50.0, "what the cache may hold, in GB", least=0.001, most=1e6)
    max_unreadable: float = setting(
        0.1,
        "share of the clips of a pass that may be unreadable, as where a shard is missing or "
        "storage does not answer; with more the run stops",
        least=0,
        most=1,
    )
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


INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")  # 010 would be 8 to some, 10 to others
NOT_FINITE = re.compile(r"^([-+]?)\.(inf|nan)$", re.IGNORECASE)
WORDS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)

END = "...\n"  # of a YAML document
SHAPE = "a recipe is a mapping of settings, as in recipes/toy.yaml"

Overrides = Iterable[str] | Mapping[str, object]  # ("train.lr=0.05",) or {"train.lr": 0.05}


def load_recipe(path: str | Path | None = None, overrides: Overrides = ()) -> Recipe:
    """A recipe from a YAML file and overrides, checked.

    overrides: as ("train.lr=0.05",) or as {"train.lr": 0.05}.

    Raises UserError for unknown keys (with the closest known one), values of the wrong type, and
    values out of range.
    """
    return read_recipe({} if path is None else read_yaml(Path(path), SHAPE), str(path), overrides)


def read_recipe(values: dict, source: str, overrides: Overrides = ()) -> Recipe:
    """A recipe from its YAML content, as load_recipe; `source` is named in errors."""
    return override(_fill(Recipe, values, source, ""), overrides)


def override(recipe: Recipe, overrides: Overrides) -> Recipe:
    """The recipe with settings changed, checked; arguments and errors as of load_recipe."""
    for key, value in _pairs(overrides):
        *groups, name = str(key).split(".")
        nested: dict = {name: value}
        for group in reversed(groups):
            nested = {group: nested}
        recipe = _fill(Recipe, nested, _short(f"{key}={value}"), "", recipe)
    _check(recipe)
    return recipe


def _pairs(overrides: Overrides) -> Iterator[tuple[str, object]]:
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    for text in (overrides,) if isinstance(overrides, str) else overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise UserError(
                f"{_short(text)}: settings are given as KEY=VALUE, such as train.lr=0.05"
            )
        yield key, value


class Loader(yaml.BaseLoader):
    """YAML whose values are text: the setting says what it means, not YAML's rules for dates,
    octal numbers and words like `no`.

    Refuses keys given twice, nesting deeper than a recipe's, and aliases, which unfold without end.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _wrong("an alias; write its value out", self.peek_event().start_mark)
        if self.depth == DEEPEST:
            raise _wrong("nested too deep", self.peek_event().start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = super().construct_mapping(node, deep)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise _wrong(f"'{_short(key.value)}' is given twice", key.start_mark)
            seen.add(key.value)
        return mapping


def _wrong(what: str, where: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=where)


def _parse(text: str) -> object:
    """What YAML text holds, every value a text; yaml.YAMLError where it is none."""
    try:
        return yaml.load(text, Loader)
    except (ValueError, OverflowError) as error:  # of an escape for no character
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: Path, shape: str) -> dict:
    """The mapping that a YAML file holds, its values as texts.

    shape: what the file is to be, for the UserError of one that is not.
    """
    try:
        values = _parse(read_text(path, shape)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: {shape}")
    return values


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that load_recipe reads back to an equal one."""
    plain = dataclasses.asdict(recipe, dict_factory=lambda items: {k: _plain(v) for k, v in items})
    return yaml.safe_dump(plain, sort_keys=False)


def is_whole(text: str) -> bool:
    """Whether the YAML text of a recipe that was dumped with END has not been cut short.

    What is left of it would be a recipe too, of other settings. Older files lack END, but have
    every setting.
    """
    lines = {line.split(":")[0].strip() for line in text.splitlines()}
    return text.endswith(END) or all(name.split(".")[-1] in lines for name, _ in settings())


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


def _check(recipe: Recipe) -> None:
    """Raises UserError for a value out of range."""
    for name, known in settings():
        value = get(recipe, name)
        wrong = fault(value, known.metadata)
        if wrong:
            raise UserError(f"{name}={_short(_plain(value))}: must be {wrong}")


def fault(value: object, limits: Mapping) -> str:
    """What a value must be, where it is not; empty where it is."""
    items = value if isinstance(value, tuple) else (value,)
    if isinstance(value, str) and not _is_name(value):
        return "text without NUL that names of files can hold; LC_ALL=C.UTF-8 allows any letter"
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


def _is_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _short(value: object, most: int = 60) -> str:
    """A value as messages show it."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


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
            near = get_close_matches(str(key)[:60], hints, n=1)
            known = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(hints)}"
            raise UserError(f"{source}: no setting '{prefix}{_short(key)}'; {known}")
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
    meant = _from_text(kind, value) if isinstance(value, str) else value
    if kind is float and type(meant) is int and abs(meant) < 2**63:
        return float(meant)
    if kind is str and meant is not None and not isinstance(meant, (dict, list)):
        return str(meant)
    if kind == tuple[float, ...] and isinstance(meant, (list, tuple)):
        return tuple(_cast(float, item, name) for item in meant)
    if kind in (int, bool, float) and type(meant) is kind:
        return meant
    expected = "a list of numbers" if kind == tuple[float, ...] else f"of type {kind.__name__}"
    raise UserError(f"{name}: {_short(repr(value))} is not {expected}")


def _from_text(kind: Any, text: str) -> object:
    """What a text means for a setting of a type; the text itself where it means nothing."""
    try:
        if kind is int and INTEGER.fullmatch(text):
            return int(text)
        if kind is float:
            return float(NOT_FINITE.sub(r"\1\2", text))
        if kind is bool:
            return WORDS.get(text.lower(), text)
        if kind == tuple[float, ...]:
            return _parse(text)
    except (ValueError, yaml.YAMLError):
        pass
    return text
