"""Packing with the default settings and as many worker processes as threads, start-up included.

Peers: an ffmpeg process per video, then a tar; and the same as a plain PyAV script. The limit is
the codecs alone, in processes that have started already.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import warnings
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import zip_longest
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from benchmarks.harness import Case
from benchmarks.media import find_videos
from xdc_fast.packing.encode import BT601, JPEG, JPEG_QSCALE, MPEG
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect

THREADS = (1, 2)
FPS, SHORT_SIDE, RATE = (int(getattr(PackSettings, k)) for k in ("fps", "short_side", "audio_rate"))


def cases(quick: bool, threads: int) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as name, fork_pool(threads) as pool:
        folder = Path(name)
        what, videos = find_videos(folder, (8 if quick else 120) * threads)
        width, height = packed_size(videos[0])
        arguments = videos, (width, height), threads
        yield Case(
            f"{len(videos)} videos, {what}, to {width}x{height} JPEG packets at {FPS} fps",
            "videos per second",
            len(videos),
            partial(pack_ours, videos, folder / "ours", threads),
            {
                "ffmpeg per file, tar": partial(make_ffmpeg, folder / "ffmpeg", *arguments),
                "PyAV script, tar": lambda: partial(pack_pyav, folder / "pyav", *arguments),
            },
            assert_same_samples,
            (
                "decode, scale and encode alone",
                lambda: pool.map(partial(run_codecs, size=(width, height)), videos, chunksize=1),
            ),
        )


def fork_pool(processes: int) -> Pool:
    """Processes that start at once, with everything imported."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads: these processes use no lock of theirs
        warnings.simplefilter("ignore", DeprecationWarning)
        return get_context("fork").Pool(processes)


def packed_size(video: Path) -> tuple[int, int]:
    """Width and height at the short side wanted, even."""
    with av.open(str(video)) as container:
        context = container.streams.video[0].codec_context
        shorter = min(context.width, context.height)
        return tuple(
            2 * round(n * SHORT_SIDE / shorter / 2) for n in (context.width, context.height)
        )


def pack_ours(videos: list[Path], out: Path, workers: int) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    pack(collect(videos, None, out), out, PackSettings(), workers=workers)
    return out / "part-000000-00000.tar"


def pack_files(convert: Callable, run: Callable, out: Path, videos: list[Path]) -> Path:
    """Make an mp4 and a wav of each video by `run`, a pool's map, and a tar of them all."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    stems = [out / video.stem for video in videos]
    run(convert, zip(videos, stems, strict=True))
    with tarfile.open(out / "all.tar", "w") as tar:
        for stem in stems:
            for suffix in (".mp4", ".wav"):
                tar.add(f"{stem}{suffix}", stem.name + suffix)
    return out / "all.tar"


def make_ffmpeg(out: Path, videos: list[Path], size: tuple[int, int], processes: int) -> Callable:
    """A process of the ffmpeg program per video, `processes` at a time."""
    from imageio_ffmpeg import get_ffmpeg_exe

    program = get_ffmpeg_exe()
    scale = f"scale={size[0]}:{size[1]}:flags=area:out_range=full"
    picture = f"-map 0:v:0 -vf fps={FPS}:round=up,{scale} -filter_threads 1 -pix_fmt yuvj420p"
    picture += f" -c:v mjpeg -q:v {JPEG_QSCALE} -threads 1"
    sound = f"-map 0:a:0 -ac 1 -ar {RATE} -c:a pcm_s16le"

    def convert(job: tuple[Path, Path]) -> None:
        source, stem = job
        command = [program, *["-nostdin", "-v", "error", "-y", "-threads", "1", "-i"], source]
        command += [*picture.split(), f"{stem}.mp4", *sound.split(), f"{stem}.wav"]
        subprocess.run(command, check=True)

    def run() -> Path:
        with ThreadPoolExecutor(processes) as pool:
            return pack_files(convert, lambda *work: list(pool.map(*work)), out, videos)

    return run


def pack_pyav(out: Path, videos: list[Path], size: tuple[int, int], processes: int) -> Path:
    with fork_pool(processes) as pool:
        run = partial(pool.map, chunksize=1)
        return pack_files(partial(convert_pyav, size=size), run, out, videos)


def convert_pyav(job: tuple[Path, Path], size: tuple[int, int]) -> None:
    source, stem = job
    scale, resample = make_scale(size), av.AudioResampler("s16", "mono", RATE)
    with (
        av.open(str(source)) as media,
        av.open(f"{stem}.mp4", "w") as pictures,
        wave.open(f"{stem}.wav", "wb") as sound,
    ):
        stream = pictures.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height = size
        set_jpeg(stream.codec_context)
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        for frame, number in frames_at_rate(media):
            if number is None:
                for block in resample.resample(frame):
                    sound.writeframes(block.to_ndarray())
            else:
                pictures.mux(stream.encode(numbered(scale(frame), number)))
        pictures.mux(stream.encode(None))
        for block in resample.resample(None):
            sound.writeframes(block.to_ndarray())


def run_codecs(video: Path, size: tuple[int, int]) -> int:
    """Decode both tracks, scale the pictures wanted, encode them: the bytes of their JPEGs."""
    scale, encoder, total = make_scale(size), av.CodecContext.create("mjpeg", "w"), 0
    encoder.width, encoder.height = size
    encoder.time_base = Fraction(1, FPS)
    set_jpeg(encoder)
    with av.open(str(video)) as media:
        for frame, number in frames_at_rate(media):
            if number is not None:
                packets = encoder.encode(numbered(scale(frame), number))
                total += sum(packet.size for packet in packets)
    return total


def frames_at_rate(
    media: av.container.InputContainer,
) -> Iterator[tuple[av.AudioFrame | av.VideoFrame, int | None]]:
    """Every audio frame with None, and (picture, n) for the picture on screen at n / FPS.

    The source's rate must be at least FPS.
    """
    pictures, sound = media.streams.video[0], media.streams.audio[0]
    pictures.thread_count = sound.thread_count = 1
    number, last = 0, None
    for frame in media.decode(pictures, sound):
        if isinstance(frame, av.AudioFrame):
            yield frame, None
            continue
        while last is not None and frame.time > number / FPS + 1e-6:
            yield last, number
            number += 1
        last = frame
    while number / FPS < last.time + float(1 / pictures.average_rate) - 0.5 / FPS:
        yield last, number
        number += 1


def make_scale(size: tuple[int, int]) -> Callable:
    return partial(
        VideoReformatter().reformat,
        width=size[0],
        height=size[1],
        format="yuvj420p",
        interpolation="AREA",
        src_colorspace=BT601,
        dst_colorspace=BT601,
        src_color_range=MPEG,
        dst_color_range=JPEG,
        threads=1,
    )


def numbered(picture: av.VideoFrame, number: int) -> av.VideoFrame:
    picture.pts, picture.time_base, picture.pict_type = number, Fraction(1, FPS), 0
    return picture


def set_jpeg(context: av.VideoCodecContext) -> None:
    """Our quality of JPEG."""
    context.pix_fmt, context.color_range, context.thread_count = "yuvj420p", JPEG, 1
    context.flags |= av.codec.context.Flags.qscale
    context.global_quality = 118 * JPEG_QSCALE
    context.options = {"qmin": str(JPEG_QSCALE), "qmax": str(JPEG_QSCALE)}


def assert_same_samples(ours: Path, other: Path) -> None:
    """As many samples, and the same pictures and sound but for the peer's rounding."""
    for number, (a, b) in enumerate(zip_longest(read_samples(ours), read_samples(other))):
        assert a and b, f"{'no' if a else 'more than our'} sample {number}"
        (pictures, sound), (pictures_b, sound_b) = a, b
        shape, shape_b = pictures.shape, pictures_b.shape
        assert abs(len(pictures) - len(pictures_b)) <= 1, f"sample {number}: {shape_b}, {shape}"
        assert shape[1:] == shape_b[1:], f"sample {number}: {shape_b}, {shape}"
        off = np.abs(len(sound) - len(sound_b))
        assert off <= 2 * RATE / FPS, f"sample {number}: {off} samples of sound more or less"
        count = min(len(pictures), len(pictures_b))
        off = np.abs(pictures[:count] - pictures_b[:count]).mean((1, 2)).max()
        assert off < 1, f"sample {number}: a picture differs by {off:.2f} on average"
        count = min(len(sound), len(sound_b))
        off = np.abs(sound[:count] - sound_b[:count]).mean() / np.abs(sound).mean()
        assert off < 0.02, f"sample {number}: sound differs by {off:.3f} of its level"


def read_samples(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Luma (T, H, W) and waveform (S,) of each sample of a tar, int32."""
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
        for name in members:
            if not name.endswith(".mp4"):
                continue
            with av.open(tar.extractfile(members[name])) as media:
                height = media.streams.video[0].height
                frames = [frame.to_ndarray()[:height] for frame in media.decode(video=0)]
            with wave.open(tar.extractfile(members[name[:-3] + "wav"])) as media:
                assert media.getparams()[:3] == (1, 2, RATE), f"{name}: {media.getparams()}"
                sound = np.frombuffer(media.readframes(media.getnframes()), "<i2")
            yield np.stack(frames).astype(np.int32), sound.astype(np.int32)
