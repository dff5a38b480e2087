"""The methods as a table: which encoder each head sits on, and which clustering labels it."""

from __future__ import annotations

from dataclasses import dataclass

from xdc_fast.errors import UserError


@dataclass(frozen=True)
class Head:
    """encoder: video or audio. clustering: the modalities whose features are clustered together."""

    encoder: str
    clustering: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.encoder}_from_{clustering_name(self.clustering)}"


VIDEO, AUDIO, JOINT = ("video",), ("audio",), ("video", "audio")

METHODS: dict[str, tuple[Head, ...]] = {
    "xdc": (Head("video", AUDIO), Head("audio", VIDEO)),
    "sdc": (Head("video", VIDEO), Head("audio", AUDIO)),
    "mdc": (Head("video", VIDEO), Head("video", AUDIO), Head("audio", AUDIO), Head("audio", VIDEO)),
    "cdc": (Head("video", JOINT), Head("audio", JOINT)),
}


def heads_of(method: str) -> tuple[Head, ...]:
    """The heads of a method; UserError for an unknown one."""
    if method not in METHODS:
        raise UserError(f"method={method}: known are {', '.join(METHODS)}")
    return METHODS[method]


def clusterings_of(method: str) -> list[tuple[str, ...]]:
    """The clusterings a method needs, in a fixed order."""
    return sorted({head.clustering for head in heads_of(method)}, reverse=True)


def clustering_name(clustering: tuple[str, ...]) -> str:
    """video, audio, or joint."""
    return clustering[0] if len(clustering) == 1 else "joint"
