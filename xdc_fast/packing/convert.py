"""Convert one source file into the files of its samples, or refuse it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from xdc_fast.packing.copy import check_copyable
from xdc_fast.packing.media import (
    Refusal,
    choose_audio,
    choose_video,
    decoded,
    open_media,
)
from xdc_fast.packing.segments import Span
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sink import Files, Sink
from xdc_fast.packing.timeline import sample_count
from xdc_fast.packing.tracks import (
    AudioTrack,
    BothTracks,
    Conversion,
    Outcome,
    VideoTrack,
    check_length,
    original_facts,
    sample_facts,
    unpaired_seconds,
    write_sound,
)
from xdc_fast.shards.sound import Mono


def convert(path: Path, settings: PackSettings, video: Path, audio: Path) -> dict:
    """Decode a source; write its video track to `video` and its sound to `audio`, a wav file.

    Writes only the track of settings.tracks where that names one.
    Returns the metadata that the file itself gives. Raises Refusal, or OSError when `video` or
    `audio` cannot be written.
    """
    return convert_into(Files(video, audio), path, settings)


def convert_into(sink: Sink, path: Path, settings: PackSettings) -> dict:
    """Decode a whole source into a sink; returns the metadata that it gives, and raises Refusal."""
    (outcome,) = convert_all(path, settings, [None], lambda number: sink)
    assert outcome is not None
    if isinstance(outcome.answer, Refusal):
        raise outcome.answer
    return outcome.answer


def convert_all(
    path: Path,
    settings: PackSettings,
    spans: list[Span | None],
    sink_of: Callable[[int], Sink],
) -> Iterator[Outcome | None]:
    """Decode a file once; yields what becomes of each sample, in the order in which they begin, and
    None now and then while it passes over what is in no segment.

    spans: of the inputs that the file is, in seconds from its beginning; None is all of it.
    settings.segment cuts each into several samples. sink_of: where the sample of a number goes.
    What is left of an input where the file is damaged is one outcome. Of spans, settings.codec must
    not be copy. Raises OSError when a sink cannot be written.
    """
    try:
        if settings.codec == "copy" and settings.tracks != "audio":
            yield Outcome(0, 0, None, _convert_copy(sink_of(0), path, settings))
        else:
            yield from _CONVERSIONS[settings.tracks](path, settings, spans, sink_of).run()
    except Refusal as refusal:  # of the file, before any outcome
        for place, span in enumerate(spans):
            yield Outcome(place, None, span, refusal)


_CONVERSIONS: dict[str, type[Conversion]] = {
    "both": BothTracks,
    "video": VideoTrack,
    "audio": AudioTrack,
}


def _convert_copy(sink: Sink, path: Path, settings: PackSettings) -> dict:
    """The video's packets as they are; the sound is cut or filled with silence to their span."""
    with_sound, rate = settings.tracks == "both", settings.audio_rate
    start, fps, count = check_copyable(path, with_sound)
    length = sample_count(count, fps, rate)
    with open_media(path) as container:
        original = original_facts(choose_video(container))
    if with_sound:
        begin, samples = _sound_beside(sink, path, start, start + count / fps, rate)
        with open_media(path) as container:
            original |= original_facts(choose_audio(container))
    width, height = sink.copy_video(path, fps, count)
    check_length(count, fps, settings)
    unpaired = 0.0
    if with_sound:
        sink.finish_wav(samples, length, rate)
        ends = start + float(count / fps), start + samples / rate
        unpaired = unpaired_seconds((start, begin), ends, fps)
    size = {"frames": count, "width": width, "height": height}
    return sample_facts(start, original, count / fps, False, unpaired, fps=fps, **size)


def _sound_beside(sink: Sink, path: Path, start: float, end: float, rate: int) -> tuple[float, int]:
    """The sound of a copied video into the sink; returns where it begins, and its samples.

    start, end: of the video, seconds.
    """
    mono = Mono()
    while True:
        with open_media(path) as container:
            blocks = decoded(choose_audio(container))
            begin = next(blocks)
            if begin[0] >= end:
                raise Refusal("no overlap", f"audio starts at {begin[0]:.2f} s, video ends before")
            samples = write_sound(sink, chain([begin], blocks), start, rate, 2**62, mono)
        if samples == 0:
            raise Refusal("no overlap", f"video starts at {start:.2f} s, audio ends before")
        if mono.loudest is None:
            return begin[0], samples
        mono = Mono(mono.loudest)
