"""Every setting of a run, once. Files in recipes/ and KEY=VALUE arguments override the defaults."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import yaml

from xdc_fast.errors import UserError


@dataclass(frozen=True)
class Video:
    """The pictures of a clip, and the encoder that reads them."""

    encoder: str = "r2plus1d_18"
    """r2plus1d_18, or for CPUs r2plus1d_small, r2plus1d_tiny"""
    frames: int = 8
    """pictures in a clip"""
    rate: float = 7.5
    """pictures per second within a clip"""
    crop: int = 112
    """side of the square crop in pixels"""
    flip: bool = True
    """mirror half of the training clips left to right"""
    jitter: float = 0.0
    """training: contrast in 1 +- jitter, brightness in +- jitter x 127.5, drawn per clip"""
    mean: tuple[float, ...] = (0.43216, 0.394666, 0.37645)
    """RGB mean on [0, 1]; the default is that of the released XDC weights"""
    std: tuple[float, ...] = (0.22803, 0.22145, 0.216989)
    """RGB standard deviation, likewise"""


@dataclass(frozen=True)
class Audio:
    """The log-mel spectrogram of a clip, and the encoder that reads it."""

    encoder: str = "audio_resnet18"
    """audio_resnet18, or for CPUs audio_small, audio_tiny"""
    rate: int = 16000
    """samples per second; what the shards hold"""
    frames: int = 100
    """spectrogram frames in a clip"""
    mels: int = 40
    """mel filters"""
    window: int = 256
    """samples per frame (16 ms)"""
    hop: int = 160
    """samples from one frame to the next (10 ms)"""
    jitter: float = 0.0
    """training: standard deviation of a shift of the whole log-mel, in nats"""
    mean: float = -6.0
    """subtracted from the log-mel"""
    std: float = 4.0
    """then divided by"""


@dataclass(frozen=True)
class Cluster:
    """From features to clusters. The paper's preprocessing is unknown: the defaults are ours."""

    normalize: str = "none"
    """none, l2, or centered-l2 (the set's mean subtracted first)"""
    pca: int = 0
    """whitened principal components kept; 0: no PCA"""
    rounds: int = 20
    """k-means rounds at most; they end when one lowers the inertia by less than 0.1 %"""
    restarts: int = 1
    """starts from scratch, of which the best goes on"""
    warm: bool = True
    """after the first iteration, start from the last clusters instead of from scratch"""
    features: str = "pass"
    """pass: of a pass over the set; training: those of the last epoch, a memory bank"""
    points: int = 0
    """samples that k-means sees, drawn at random; 0: all"""


@dataclass(frozen=True)
class Train:
    """The training that follows each clustering."""

    iterations: int = 5
    """clusterings, each with its training"""
    epochs: int = 3
    """passes over the set per iteration"""
    steps: int = 0
    """steps per iteration, in place of `epochs`; 0: as many as the epochs have"""
    batch: int = 64
    """clips per step"""
    lr: float = 0.1
    """peak learning rate: warm-up, then cosine to zero, anew in each iteration"""
    momentum: float = 0.9
    """of SGD"""
    weight_decay: float = 1e-4
    """of SGD"""
    warmup: int = 20
    """steps of linear warm-up"""
    precision: str = "float32"
    """float32 or bfloat16 (autocast)"""
    compile: bool = False
    """torch.compile the encoders"""
    checkpoint_steps: int = 500
    """steps between checkpoints within an iteration"""
    heads: str = "kept"
    """kept: the last iteration's go on, if cluster.warm keeps its clusters; new: drawn anew"""
    balance: str = "auto"
    """always, never or auto (for sdc): weigh clips so that all clusters count alike"""


@dataclass(frozen=True)
class Recipe:
    """One run."""

    data: str = ""
    """folder of a shard set, as `xdc-shard pack` makes it"""
    out: str = ""
    """folder of the run; an existing run there is resumed"""
    method: str = "xdc"
    """which clusterings teach which heads: xdc, sdc, mdc, cdc, same (the control: two encoders of
    each modality) or supervised"""
    label: str = ""
    """label column that method=supervised predicts; the others read none"""
    split: str = ""
    """label column whose `train` method=supervised learns from; empty: all that have a label"""
    k: int = 128
    """clusters per clustering"""
    seed: int = 0
    """of everything random"""
    device: str = "auto"
    """auto, cpu or cuda"""
    loader: str = "auto"
    """auto, host or dali"""
    threads: int = 2
    """loader threads"""
    video: Video = field(default_factory=Video)
    audio: Audio = field(default_factory=Audio)
    cluster: Cluster = field(default_factory=Cluster)
    train: Train = field(default_factory=Train)


AT_LEAST_ONE = (
    "k", "threads", "video.frames", "video.crop", "audio.rate", "audio.frames", "audio.mels",
    "audio.window", "audio.hop", "cluster.rounds", "cluster.restarts", "train.iterations",
    "train.epochs", "train.batch", "train.checkpoint_steps",
)  # fmt: skip
ABOVE_ZERO = ("video.rate", "video.std", "audio.std", "train.lr")
NOT_NEGATIVE = (
    "seed", "video.jitter", "audio.jitter", "cluster.pca", "cluster.points", "train.momentum",
    "train.steps", "train.weight_decay", "train.warmup",
)  # fmt: skip
CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "loader": ("auto", "host", "dali"),
    "cluster.normalize": ("none", "l2", "centered-l2"),
    "cluster.features": ("pass", "training"),
    "train.heads": ("kept", "new"),
    "train.balance": ("auto", "always", "never"),
    "train.precision": ("float32", "bfloat16"),
}
TRIPLES = ("video.mean", "video.std")


def load_recipe(path: str | Path | None = None, overrides: tuple[str, ...] = ()) -> Recipe:
    """A recipe from a YAML file and KEY=VALUE overrides (`train.lr=0.05`), checked.

    Raises UserError for unknown keys (with the closest known one), values of the wrong type, and
    values out of range.
    """
    values: dict = {}
    if path is not None:
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
    recipe = _fill(Recipe, values, str(path), "")
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise UserError(f"{override}: settings are given as KEY=VALUE, such as train.lr=0.05")
        nested: object = Text(text)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        recipe = _fill(Recipe, nested, override, "", recipe)
    _check(recipe)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that load_recipe reads back to an equal one."""
    plain = dataclasses.asdict(recipe, dict_factory=lambda items: {k: _plain(v) for k, v in items})
    return yaml.safe_dump(plain, sort_keys=False)


def describe() -> str:
    """Every setting with its default and meaning, a line each."""
    lines = []
    for cls, prefix in ((Recipe, ""), (Video, "video."), (Audio, "audio."), (Cluster, "cluster."),
                        (Train, "train.")):  # fmt: skip
        body = ast.parse(inspect.getsource(cls)).body[0].body
        for statement, note in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(note, ast.Expr):
                name = statement.target.id
                default = getattr(cls, name)
                lines.append(f"{prefix + name:24} {_plain(default)!s:24} {note.value.value}")
    return "\n".join(lines)


class Text(str):
    """The value of a KEY=VALUE argument: read as YAML, unless the setting is text itself."""


def _check(recipe: Recipe) -> None:
    """Raises UserError for a value out of range."""

    def refuse(names, wrong, meaning: str) -> None:
        for name in names:
            value = recipe
            for part in name.split("."):
                value = getattr(value, part)
            if any(wrong(item) for item in (value if isinstance(value, tuple) else (value,))):
                raise UserError(f"{name}={_plain(value)}: must be {meaning}")

    for name in TRIPLES:
        if len(value := getattr(recipe.video, name.removeprefix("video."))) != 3:
            raise UserError(f"{name}={list(value)}: must be three numbers, for R, G and B")
    refuse(AT_LEAST_ONE, lambda value: value < 1, "1 or more")
    refuse(ABOVE_ZERO, lambda value: not value > 0, "above 0")
    refuse(NOT_NEGATIVE, lambda value: not value >= 0, "0 or more")
    for name, known in CHOICES.items():
        refuse((name,), lambda value, known=known: value not in known, "one of " + ", ".join(known))


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _fill(cls, values: dict, source: str, prefix: str, base=None):
    """An instance of a settings class with some fields replaced."""
    hints = get_type_hints(cls)
    changes = {}
    for key, value in values.items():
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


def _cast(kind, value, name: str):
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
    if kind == tuple[float, ...] and isinstance(value, list):
        return tuple(_cast(float, item, name) for item in value)
    if kind in (int, bool, float) and type(value) is kind:
        return value
    expected = "a list of numbers" if kind == tuple[float, ...] else f"of type {kind.__name__}"
    raise UserError(f"{name}: {value!r} is not {expected}")
