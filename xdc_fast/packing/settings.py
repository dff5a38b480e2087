"""What decides the bytes of a packed sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from fractions import Fraction

from xdc_fast.errors import UserError
from xdc_fast.recipe import fault, setting
from xdc_fast.shards.format import TRACKS
from xdc_fast.shards.streams import nearest_rate

DAY = 86_400  # seconds
MEGABYTES, MOST_MEGABYTES = 256, 4096  # of a tar
LEAST = 100  # samples of a tar, where they are not huge


@dataclass(frozen=True)
class PackSettings:
    """What decides a sample's bytes; the manifest keeps it."""

    codec: str = setting(
        "jpeg",
        "JPEG packets, H.264 with short GOPs, or the video stream as it is.",
        choices=("jpeg", "h264", "copy"),
    )
    fps: float = setting(15.0, "Frames per second of the packed video.", least=0.1, most=240)
    short_side: int = setting(
        128, "Pixels of the shorter side of the picture.", least=16, most=4096, even=True
    )
    audio_rate: int = setting(
        16000, "Samples per second of the packed sound.", least=4000, most=192000
    )
    max_seconds: float | None = setting(
        None, "Longer videos are cut to their first seconds.", least=0, most=DAY
    )
    segment: float | None = setting(
        None,
        "Videos are cut into samples of so many seconds, and a rest.",
        above=0,
        most=DAY,
    )
    min_seconds: float = setting(1.0, "Shorter inputs are refused.", least=0, most=DAY)
    tracks: str = setting(
        "both",
        "What is packed. Where it is one track, files need not have the other.",
        choices=tuple(TRACKS),
    )

    def check(self) -> None:
        """Raises UserError for a value out of range, or values that contradict each other."""
        for known in fields(self):
            value = getattr(self, known.name)
            if value is not None and (wrong := fault(value, known.metadata)):
                raise UserError(f"{known.name}={value}: must be {wrong}")
        if self.max_seconds is not None and self.max_seconds < self.min_seconds:
            raise UserError(
                f"max_seconds={self.max_seconds}: must be min_seconds={self.min_seconds} or more"
            )
        if self.segment is not None and self.segment < max(self.min_seconds, 1 / self.fps):
            least = f"min_seconds={self.min_seconds} and a frame (1/{self.fps:g} s)"
            raise UserError(f"segment={self.segment}: must be at least {least}")
        for name in ("max_seconds", "segment"):
            if getattr(self, name) is not None and self.codec == "copy":
                raise UserError(f"{name}: codec=copy packs whole videos; leave {name} out")

    @property
    def frame_rate(self) -> Fraction:
        """fps as a fraction: 29.97 is 30000/1001."""
        return nearest_rate(self.fps)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What a sample holds: video, audio or both."""
        return TRACKS[self.tracks]

    def as_dict(self) -> dict:
        """For the manifest; `tracks` and `segment` are left out where they are the default, as in
        sets of older versions."""
        settings = asdict(self)
        for name, usual in (("tracks", "both"), ("segment", None)):
            if settings[name] == usual:
                del settings[name]
        return settings


@dataclass(frozen=True)
class ShardLimit:
    """When a tar is closed: when it has `megabytes`, or by default MEGABYTES and LEAST samples, but
    MOST_MEGABYTES at most."""

    megabytes: float | None = None

    def is_full(self, samples: int, size: int) -> bool:
        """Whether a tar of so many samples and bytes is closed."""
        if self.megabytes is not None:
            return size >= self.megabytes * 1e6
        return size >= (MEGABYTES if samples >= LEAST else MOST_MEGABYTES) * 1e6
