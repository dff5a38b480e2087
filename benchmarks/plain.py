"""The peer of the loaders: a DataLoader over the webdataset library, with torchcodec or PyAV for
the tracks and torchaudio for the spectrogram.

It is written to be fast: one FFmpeg thread per worker, seeking, only the frames of the clip,
resizing while decoding, spectrograms of whole batches, persistent workers.
"""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio
import webdataset
from av.video.reformatter import VideoReformatter
from torch.utils.data import DataLoader

from benchmarks.stages.decode import SHAPE, read_wav
from benchmarks.stages.logmel import torchaudio_transform
from xdc_fast.clips.windows import WindowFunction
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.shards.format import sample_key

SHUFFLE = 1000  # samples in the shuffle buffer
SLACK = 1e-3  # seconds; a frame is on screen at its own timestamp, however that is rounded


@dataclass(frozen=True)
class Cut:
    """The place of a sample's clip.

    seconds: when its pictures are on screen. start: its first sound sample, at SHAPE's rate.
    height, width: pixels of the picture that is cropped. top, left: the crop's corner.
    """

    seconds: list[float]
    start: int
    height: int
    width: int
    top: int
    left: int
    crop: int
    flip: bool


Reader = Callable[[bytes, Cut], torch.Tensor]


def draw_cuts(rows: np.ndarray, function: WindowFunction, crop: int = SHAPE.crop) -> list[Cut]:
    """The clips of the SAMPLE rows of a set, with the windows that a loader draws for them."""
    windows = function(np.arange(len(rows)), rows)
    seconds = windows.frames / rows["fps"][:, None] + SLACK
    places = zip(
        *(windows.start, rows["height"], rows["width"], windows.top, windows.left, windows.flip),
        strict=True,
    )
    return [
        Cut(times, *map(int, numbers), crop, bool(flip))
        for times, (*numbers, flip) in zip(seconds.tolist(), places, strict=True)
    ]


def write_tars(samples: Iterable[dict[str, bytes]], folder: Path, count: int) -> list[Path]:
    """`count` tars of equally many samples, so that workers have equally much to do.

    samples: the files of each sample by extension, in the order of their index.
    """
    folder.mkdir()
    tars = [folder / f"{number:06d}.tar" for number in range(count)]
    writers = [webdataset.TarWriter(str(tar)) for tar in tars]
    for index, files in enumerate(samples):
        writers[index % count].write({"__key__": sample_key(index)} | files)
    for writer in writers:
        writer.close()
    return tars


def open_plain(
    tars: list[Path],
    cuts: list[Cut],
    readers: tuple[Reader, Reader],
    inputs: ClipTransform,
    *,
    batch: int,
    workers: int,
    pin: bool = False,
) -> DataLoader:
    """Batches of all samples in random order: index int64 (B,), frames uint8 (B, T, H, W, 3) and
    the log-mel as `inputs` makes it, float32 (B, 1, mels, frames).

    readers: of pictures and of sound, from READERS. Every worker has its own tars, and its last
    batch may be small.
    """
    context = multiprocessing.get_context("forkserver")  # a fork would inherit threads that hold
    context.set_forkserver_preload([__name__])  # locks; imports happen once for all workers
    samples = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars))
    clips = samples.shuffle(SHUFFLE).map(partial(read_clip, cuts=cuts, readers=readers))
    return DataLoader(
        clips.batched(batch, collation_fn=Collate(inputs)),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=True,
        pin_memory=pin,
    )


def read_clip(sample: dict, cuts: list[Cut], readers: tuple[Reader, Reader]) -> tuple:
    """Index, frames uint8 (T, H, W, 3) and waveform float32 (S,) of one sample's clip."""
    index = int(sample["__key__"])
    cut, (read_pictures, read_sound) = cuts[index], readers
    frames = read_pictures(sample["mp4"], cut)
    frames = frames[:, cut.top : cut.top + cut.crop, cut.left : cut.left + cut.crop]
    if "wav" in sample:
        sound = torch.from_numpy(read_wav(sample["wav"], cut.start)).float() / 32768
    else:
        before = max(-cut.start, 0)
        heard = read_sound(sample["mp4"], cut)[: SHAPE.samples - before]
        after = SHAPE.samples - before - len(heard)
        sound = torch.nn.functional.pad(heard, (before, after))
    return index, frames.flip(2) if cut.flip else frames, sound


class Collate:
    """Clips to a batch."""

    def __init__(self, inputs: ClipTransform):
        self.audio, self.spec = inputs.audio, inputs.spec

    def __call__(self, clips: list[tuple]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index, frames, sound = zip(*clips, strict=True)
        power = self.transform(torch.stack(sound))
        mel = power.add_(self.spec.floor).log_().sub_(self.audio.mean).div_(self.audio.std)
        return torch.tensor(index), torch.stack(frames), mel.unsqueeze(1)

    @cached_property
    def transform(self) -> torchaudio.transforms.MelSpectrogram:
        return torchaudio_transform(self.spec)


def torchcodec_readers() -> tuple[Reader, Reader]:
    """Raises ImportError where torchcodec's libraries do not load."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (RuntimeError, OSError) as error:
        raise ImportError(error) from None
    return torchcodec_pictures, torchcodec_sound


def torchcodec_pictures(file: bytes, cut: Cut) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    video = VideoDecoder(
        file,
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        seek_mode="approximate",
        transforms=[Resize((cut.height, cut.width))],
    )
    return video.get_frames_played_at(cut.seconds).data


def torchcodec_sound(file: bytes, cut: Cut) -> torch.Tensor:
    from torchcodec.decoders import AudioDecoder

    sound = AudioDecoder(file, sample_rate=SHAPE.sample_rate)
    first, last = max(cut.start, 0), cut.start + SHAPE.samples
    heard = sound.get_samples_played_in_range(first / SHAPE.sample_rate, last / SHAPE.sample_rate)
    return heard.data.mean(0)  # FFmpeg's own way to mono is 3 dB louder than the mean


def pyav_pictures(file: bytes, cut: Cut) -> torch.Tensor:
    """The frame on screen at each time."""
    found, reformatter = [], VideoReformatter()
    with av.open(io.BytesIO(file)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        container.seek(int(cut.seconds[0] / stream.time_base), stream=stream)
        shown, picture = None, None

        def show(until: float) -> None:
            nonlocal picture
            while len(found) < len(cut.seconds) and cut.seconds[len(found)] < until:
                if picture is None:
                    picture = reformatter.reformat(
                        shown, cut.width, cut.height, "rgb24", interpolation="BILINEAR", threads=1
                    ).to_ndarray()
                found.append(picture)

        for frame in container.decode(stream):
            if shown is not None:
                show(frame.time)
            shown, picture = frame, None
            if len(found) == len(cut.seconds):
                break
        show(np.inf)
    return torch.from_numpy(np.stack(found))


def pyav_sound(file: bytes, cut: Cut) -> torch.Tensor:
    resampler = av.AudioResampler(format="fltp", rate=SHAPE.sample_rate)
    first, needed = max(cut.start, 0), SHAPE.samples + min(cut.start, 0)
    blocks, begin = [], 0
    with av.open(io.BytesIO(file)) as container:
        stream = container.streams.audio[0]
        begun = first / SHAPE.sample_rate - 0.05  # AAC needs the frame before
        container.seek(int(begun / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if not blocks:
                begin = round(frame.time * SHAPE.sample_rate)
            blocks += [block.to_ndarray().mean(0) for block in resampler.resample(frame)]
            if begin + sum(map(len, blocks)) >= first + needed:
                break
        else:
            blocks += [block.to_ndarray().mean(0) for block in resampler.resample(None)]
    return torch.from_numpy(np.concatenate(blocks)[first - begin :])


READERS: dict[str, Callable[[], tuple[Reader, Reader]]] = {
    "torchcodec": torchcodec_readers,
    "PyAV": lambda: (pyav_pictures, pyav_sound),
}
