"""The methods as a table: which encoder each head sits on, and which clustering labels it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from xdc_fast.encoders.build import MODALITIES, TWIN
from xdc_fast.errors import UserError


@dataclass(frozen=True)
class Head:
    """encoder: video, audio, or a twin of one. clustering: the encoders whose features are
    clustered together, or LABEL."""

    encoder: str
    clustering: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.encoder}_from_{clustering_name(self.clustering)}"


VIDEO, AUDIO, JOINT = ("video",), ("audio",), ("video", "audio")
LABEL = ("label",)  # no clustering: the classes of a label column

METHODS: dict[str, tuple[Head, ...]] = {
    "xdc": (Head("video", AUDIO), Head("audio", VIDEO)),
    "sdc": (Head("video", VIDEO), Head("audio", AUDIO)),
    "mdc": (Head("video", VIDEO), Head("video", AUDIO), Head("audio", AUDIO), Head("audio", VIDEO)),
    "cdc": (Head("video", JOINT), Head("audio", JOINT)),
    # the paper's control: two encoders of one modality, each taught by the other's clusters
    "same": tuple(
        head for m in MODALITIES for head in (Head(m, (m + TWIN,)), Head(m + TWIN, (m,)))
    ),
    "supervised": (Head("video", LABEL), Head("audio", LABEL)),
}


def heads_of(method: str) -> tuple[Head, ...]:
    """The heads of a method; UserError for an unknown one."""
    if method not in METHODS:
        raise UserError(f"method={method}: known are {', '.join(METHODS)}")
    return METHODS[method]


def method_with(heads: Collection[str]) -> str:
    """The method whose heads have these names."""
    return next(m for m, table in METHODS.items() if {head.name for head in table} == set(heads))


def encoders_of(method: str) -> tuple[str, ...]:
    """The encoders a method trains, video and audio first."""
    names = {head.encoder for head in heads_of(method)}
    return (*MODALITIES, *sorted(names - set(MODALITIES)))


def clusterings_of(method: str) -> list[tuple[str, ...]]:
    """The clusterings a method needs, in a fixed order."""
    return sorted({head.clustering for head in heads_of(method)}, reverse=True)


def clustering_name(clustering: tuple[str, ...]) -> str:
    """The encoder's name, joint, or label."""
    return clustering[0] if len(clustering) == 1 else "joint"
