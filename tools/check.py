"""`xdc doctor --check`: every kernel and path of this machine against an independent reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, fixed_windows
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.encoders.build import MODALITIES, build_encoders
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.kernels import MelSpec, cluster_sizes, contingency, gather_labels, log_mel, nmi
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.packing.toy import make_video
from xdc_fast.recipe import Cluster, Recipe, Video
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames, decode_waveform

SHAPE = ClipShape(frames=8, fps=7.5, crop=56, samples=16096, sample_rate=16000)
VIDEOS = 4


@dataclass(frozen=True)
class Check:
    """One comparison: it holds where `difference` is at most `tolerance`.

    difference: NaN where the path could not run; `failure` then says why.
    """

    name: str
    reference: str
    measure: str
    difference: float
    tolerance: float
    failure: str = ""

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance

    def as_dict(self) -> dict:
        """For JSON, which has no NaN."""
        found = None if self.failure else self.difference
        return {**asdict(self), "difference": found, "holds": self.holds}

    def __str__(self) -> str:
        verdict = "ok" if self.holds else "DIFFERS"
        found = f"{self.difference:.1e} of {self.tolerance:.0e}, {self.measure}"
        if self.failure:
            verdict, found = "FAILED", self.failure
        return f"{verdict:8} {self.name:34} {self.reference:26} {found}"


def check_machine() -> Iterator[Check]:
    """Every comparison that this machine can make, one after the other: under a minute."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    for device in devices:
        where = device.type
        for dtype in (np.float32, np.int16):
            yield attempt(
                f"log-mel, {np.dtype(dtype)}, {where}",
                "torchaudio",
                "mel power, relative",
                1e-3,
                partial(compare_log_mel, device, dtype),
            )
        yield attempt(
            f"label counts, {where}", "scikit-learn", "samples", 0, partial(compare_labels, device)
        )
    yield attempt("NMI, cpu", "scikit-learn", "absolute", 1e-9, compare_nmi)
    for device in devices:
        yield attempt(
            f"k-means, {device.type}",
            "NumPy, float64",
            "squared distance, relative",
            1e-4,
            partial(compare_kmeans, device),
        )
    with tempfile.TemporaryDirectory() as folder:
        yield from check_loaders(Path(folder), devices)
    for device in devices:
        yield from check_encoders(device)


def attempt(
    name: str, reference: str, measure: str, tolerance: float, compare: Callable[[], float]
) -> Check:
    """The comparison, or what kept it from being made."""
    try:
        return Check(name, reference, measure, float(compare()), tolerance)
    except Exception as error:  # of any library: the others are still to be checked
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Check(name, reference, measure, float("nan"), tolerance, failure)


def compare_log_mel(device: torch.device, dtype: type) -> float:
    """The largest relative difference in mel power, 120 dB below the frame's loudest left out."""
    from torchaudio.transforms import MelSpectrogram

    spec = MelSpec(n_fft=512, win_length=400, n_mels=40)
    rng = np.random.default_rng(0)
    time = np.arange(16000) / 16000
    waves = [rng.uniform(-1, 1, 16000), np.sin(2 * np.pi * 440 * time), np.sign(np.sin(3e3 * time))]
    sound = np.stack(waves * 4).astype(np.float32)
    if dtype == np.int16:
        sound = np.round(sound * 32767).astype(np.int16)
    plain = torch.from_numpy(sound).float() / (32768 if dtype == np.int16 else 1)
    mel = MelSpectrogram(
        spec.sample_rate, spec.n_fft, spec.win_length, spec.hop_length, spec.f_min, spec.f_max,
        n_mels=spec.n_mels, center=spec.center,
    )  # fmt: skip
    expected = (mel(plain) + spec.floor).log().double().numpy()
    if device.type == "cpu":
        found = log_mel(sound, spec, threads=torch.get_num_threads())
    else:
        from xdc_fast.kernels.logmel_cuda import log_mel_cuda

        out = torch.empty(expected.shape, dtype=torch.float32, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        log_mel_cuda(torch.from_numpy(sound).to(device), spec, out, stream=stream)
        found = out.cpu().numpy()
    quiet = 1e-12 * np.exp(expected.max(axis=1, keepdims=True) - expected)
    return float((np.abs(np.expm1(found - expected)) - quiet).max())


def draw_assignments() -> tuple[np.ndarray, np.ndarray]:
    """Two assignments of 100,000 samples that agree in part; a tenth of each has none."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 64, 100_000)
    b = np.where(rng.random(len(a)) < 0.5, a % 50, rng.integers(0, 50, len(a)))
    for assignment in (a, b):
        assignment[rng.random(len(a)) < 0.1] = -1
    return a, b


def compare_labels(device: torch.device) -> float:
    """Counts and labels that differ: contingency, cluster sizes, gathered labels."""
    a, b = draw_assignments()
    both = (a >= 0) & (b >= 0)
    table = contingency_matrix(a[both], b[both])
    sizes = np.unique(a[a >= 0], return_counts=True)[1]
    index = np.random.default_rng(1).permutation(len(a))
    found: tuple[np.ndarray, ...]
    if device.type == "cpu":
        found = (
            contingency(a, b, 64, 50, threads=torch.get_num_threads()),
            cluster_sizes(a, 64),
            gather_labels(a, index),
        )
    else:
        from xdc_fast.kernels import labels_cuda

        first, second, places = (torch.from_numpy(x).to(device) for x in (a, b, index))
        pairs = torch.zeros(64, 50, dtype=torch.int64, device=device)
        counts, labels = pairs.new_zeros(64), torch.empty_like(places)
        stream = torch.cuda.current_stream(device).cuda_stream
        labels_cuda.contingency_cuda(first, second, pairs, stream=stream)
        labels_cuda.cluster_sizes_cuda(first, counts, stream=stream)
        labels_cuda.gather_labels_cuda(first, places, labels, stream=stream)
        found = tuple(x.cpu().numpy() for x in (pairs, counts, labels))
    wanted = table, sizes, a[index]
    return float(sum(np.abs(x - y).sum() for x, y in zip(found, wanted, strict=True)))


def compare_nmi() -> float:
    a, b = draw_assignments()
    both = (a >= 0) & (b >= 0)
    expected = normalized_mutual_info_score(a[both], b[both])
    return abs(nmi(contingency(a, b, 64, 50)) - expected)


def compare_kmeans(device: torch.device) -> float:
    """How much farther than the nearest centroid, in float64, an assigned one is at most."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((4000, 64)) + rng.standard_normal((20, 64))[np.arange(4000) % 20]
    points = points.astype(np.float32)
    found = cluster([points], np.ones(len(points), dtype=bool), 20, Cluster(), 0, device)
    square = ((points[:, None].astype(np.float64) - found.centroids) ** 2).sum(axis=2)
    nearest = square.min(axis=1)
    return float((square[np.arange(len(points)), found.assignment] / nearest - 1).max())


def check_loaders(folder: Path, devices: list[torch.device]) -> Iterator[Check]:
    """Every loader on every codec that it can decode, against plain decoding of the files."""
    videos = folder / "videos"
    videos.mkdir()
    for number in range(VIDEOS):
        make_video(videos, number, classes=2, seed=0)
    for codec in ("jpeg", "h264"):
        settings = PackSettings(short_side=64, codec=codec)
        pack(collect([videos], None, folder / codec), folder / codec, settings, workers=1)
        shards = ShardSet(folder / codec)
        for device in devices:
            names = ["host"]
            if codec == "jpeg" or device.type == "cuda":
                names.append("DALI")
            for name in names:
                yield attempt(
                    f"{name} loader, {codec}, {device.type}",
                    "PyAV",
                    "mean difference in levels",
                    # decoders differ in how they interpolate colours and round
                    0 if name == "host" and codec == "h264" else 5,
                    partial(compare_frames, name, shards, device),
                )
                yield attempt(
                    f"{name} loader, sound, {device.type}",
                    "PyAV",
                    "largest difference",
                    0,
                    partial(compare_sound, name, shards, device),
                )


def read_batch(name: str, shards: ShardSet, device: torch.device) -> Batch:
    """The middle clip of every video, by the loader of that name."""
    loader: Loader
    if name == "host":
        loader = HostLoader(shards, SHAPE, device=device)
    else:
        from xdc_fast.clips.dali import DaliLoader

        loader = DaliLoader(shards, SHAPE, device=device)
    sampler = EpochSampler(shards.shard_sizes, VIDEOS, shuffle=False)
    (batch,) = loader.batches(sampler, partial(fixed_windows, shape=SHAPE))
    if loader.failures:
        raise RuntimeError(next(iter(loader.examples.values())))
    return batch


def compare_frames(name: str, shards: ShardSet, device: torch.device) -> float:
    batch, rows = read_batch(name, shards, device), shards.rows()
    assert batch.frames is not None
    windows = fixed_windows(batch.index.numpy(), rows, shape=SHAPE)
    worst = 0.0
    for slot, index in enumerate(batch.index.tolist()):
        whole = decode_frames(shards.video_file(index), windows.frames[slot])
        top, left = int(windows.top[slot]), int(windows.left[slot])
        expected = whole[:, top : top + SHAPE.crop, left : left + SHAPE.crop].astype(np.int16)
        found = batch.frames[slot].cpu().numpy()
        worst = max(worst, float(np.abs(found - expected).mean()))
    return worst


def compare_sound(name: str, shards: ShardSet, device: torch.device) -> float:
    batch, rows = read_batch(name, shards, device), shards.rows()
    assert batch.waveform is not None
    windows = fixed_windows(batch.index.numpy(), rows, shape=SHAPE)
    worst = 0
    for slot, index in enumerate(batch.index.tolist()):
        whole = decode_waveform(shards.audio_file(index), SHAPE.sample_rate).astype(np.int64)
        start = int(windows.start[slot])
        expected = whole[start : start + SHAPE.samples]
        worst = max(worst, int(np.abs(batch.waveform[slot].cpu().numpy() - expected).max()))
    return float(worst)


def check_encoders(device: torch.device) -> Iterator[Check]:
    """The encoders of the default recipe, on small pictures, against float64 on the CPU."""
    recipe = Recipe(device=device.type, video=Video(crop=SHAPE.crop))
    for modality in MODALITIES:
        name = getattr(recipe, modality).encoder
        precisions = {torch.float32: 1e-4}
        if device.type == "cuda":  # float32 convolutions in TF32 keep ten bits of a number
            precisions = {torch.float32: 1e-2, torch.bfloat16: 5e-2}
        for precision, tolerance in precisions.items():
            yield attempt(
                f"{name}, {str(precision).removeprefix('torch.')}, {device.type}",
                "PyTorch, float64",
                "relative to the largest feature",
                tolerance,
                partial(compare_encoder, recipe, modality, device, precision),
            )


@torch.no_grad()
def compare_encoder(
    recipe: Recipe, modality: str, device: torch.device, precision: torch.dtype
) -> float:
    inputs, rng = ClipTransform(recipe), np.random.default_rng(0)
    crop = recipe.video.crop
    frames = rng.integers(0, 256, (2, recipe.video.frames, crop, crop, 3), dtype=np.uint8)
    sound = rng.integers(-9999, 9999, (2, inputs.shape.samples), dtype=np.int16)
    batch = Batch(torch.from_numpy(frames), torch.from_numpy(sound), torch.arange(2))
    x = inputs.of(modality, batch)
    expected = build_encoders(recipe, "cpu")[modality].eval().double()(x.double())
    encoder = build_encoders(recipe, device)[modality].eval()
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        found = encoder(x.to(device)).double().cpu()
    return float((found - expected).abs().max() / expected.abs().max())
