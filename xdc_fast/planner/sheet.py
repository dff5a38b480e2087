"""The figures of a plan, part by part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.planner import formulas
from xdc_fast.planner.job import Job
from xdc_fast.planner.work import work_of
from xdc_fast.pretraining.methods import clusterings_of
from xdc_fast.pretraining.schedule import steps_per_iteration
from xdc_fast.recipe import Recipe
from xdc_fast.shards.format import CODECS, PACKET, SAMPLE

MONTH = 30 * 86_400  # seconds
ALL = ("step", "feed", "together", "network", "encode", "kmeans", "storage")


@dataclass(frozen=True)
class Figure:
    """A number of a plan.

    unit: bytes, seconds, money, or what is counted; `per second` where it is a rate. formula: where
    it comes from, in the words of recipe keys, options, rates, and figures before it. rates: the
    names of the rates that it rests on.
    """

    part: str
    name: str
    value: float
    unit: str
    formula: str
    rates: tuple[str, ...] = ()


class Sheet:
    """The figures of a recipe's job; sheet["PART NAME"] is the value of one.

    rate: numbers by name, as of rates.assumed_rates. Each method adds a part, and reads what the
    parts before it have found: they are called in their order here.
    """

    def __init__(self, recipe: Recipe, job: Job, rate: Mapping[str, float]):
        self.recipe, self.job, self.rate = recipe, job, rate
        self.work, self.shape = work_of(recipe), ClipTransform(recipe).shape
        self.figures: list[Figure] = []
        self.pixels = job.short_side**2 * rate["aspect"]
        self.group = recipe.train.group_size
        self.rank_groups = formulas.groups_per_rank(recipe.train.batch, self.group, job.gpus)
        self.passes = 1 if recipe.cluster.features == "training" else recipe.train.iterations
        self._part = ""

    def __getitem__(self, name: str) -> float:
        return next(f.value for f in self.figures if f"{f.part} {f.name}" == name)

    def _add(self, name: str, value: float, unit: str, formula: str, *rates: str) -> float:
        self.figures.append(Figure(self._part, name, value, unit, formula, rates))
        return value

    def storage(self) -> None:
        """Shards of each codec, with the tables beside them."""
        self._part, job, rate = "storage", self.job, self.rate
        self._add("pixels of a frame", self.pixels, "pixels", "short-side^2 x aspect", "aspect")
        frames = job.seconds * job.fps
        sound = formulas.sound_bytes(job.seconds, self.recipe.audio.sample_rate)
        for codec in CODECS:
            encoded, packets = codec != "copy", codec == "jpeg"
            each = self.pixels * job.fps if encoded else 1
            sample = formulas.sample_bytes(
                job.seconds * each * rate[f"{codec}_bytes"], sound, frames * packets
            )
            table = f"{SAMPLE.itemsize}{f' + {PACKET.itemsize} x fps x seconds' * packets}"
            self._add(
                codec, job.videos * sample, "bytes",
                f"videos x (seconds x ({'fps x pixels x ' * encoded}{codec}_bytes + "
                f"2 x audio.sample_rate) + {3 * formulas.TAR_FILE} + {table})",
                f"{codec}_bytes", *["aspect"] * encoded,
            )  # fmt: skip

    def packing(self) -> None:
        """The time to pack with each codec."""
        self._part, job = "packing", self.job
        for codec in CODECS:
            name, encoded = f"{codec}_pack", codec != "copy"
            each = job.seconds / self.rate[name] * (job.fps * self.pixels if encoded else 1)
            self._add(
                f"{codec}, one core", job.videos * each, "seconds",
                f"videos x seconds{' x fps x pixels' * encoded} / {name}",
                name, *["aspect"] * encoded,
            )  # fmt: skip
        self._add(
            "jpeg, all cores", self["packing jpeg, one core"] / job.cores, "seconds",
            f"that of one core / {job.cores:,.0f} cores", "jpeg_pack", "aspect",
        )  # fmt: skip

    def feed(self) -> None:
        """What GPUs take, what they get, and what that asks of the storage."""
        self._part, rate, shape = "feed", self.rate, self.shape
        training = ("step", "feed", "together")
        clip_pixels = shape.frames * self.pixels
        self._add(
            "clips a GPU takes", rate["step"] / self.work.step, "clips per second",
            f"step / {self.work.step:.4g} FLOP of a clip", "step",
        )  # fmt: skip
        self._add(
            "clips a GPU gets", rate["feed"] / clip_pixels, "clips per second",
            "feed / (video.frames x pixels)", "feed", "aspect",
        )  # fmt: skip
        clip = self._add(
            "bytes of a clip",
            formulas.clip_bytes(shape.frames, self.job.fps / shape.fps,
                                self.pixels * rate["jpeg_bytes"], shape.samples),
            "bytes",
            "((video.frames - 1) x fps / video.fps + 1) x pixels x jpeg_bytes + 2 x sound samples",
            "jpeg_bytes", "aspect",
        )  # fmt: skip
        self.clip_seconds = formulas.clip_seconds(
            self.work.step, clip_pixels, speed=rate["step"], feed=rate["feed"],
            together=rate["together"],
        )  # fmt: skip
        clips = self._add(
            "clips, all GPUs", self.job.gpus / self.clip_seconds, "clips per second",
            "gpus x together x the smaller of both", *training,
        )  # fmt: skip
        self._add("bytes, all GPUs", clips * clip, "bytes per second", "clips x bytes of a clip",
                  *training, "jpeg_bytes", "aspect")  # fmt: skip
        asked = self._add("requests, all GPUs", 2 * clips, "GET per second",
                          "2 ranges of each clip", *training)  # fmt: skip
        self._add("prefixes", math.ceil(asked / rate["requests"]), "prefixes",
                  "requests of all GPUs / requests", *training, "requests")  # fmt: skip

    def network(self) -> None:
        """What the GPUs tell each other."""
        self._part, gpus = "network", self.job.gpus
        weights = self.work.weights
        gradients = self._add("gradients, a step", formulas.FLOAT * weights, "bytes",
                              f"4 x {weights:,} weights")  # fmt: skip
        self._add("gradients, sent by a GPU", formulas.ring_bytes(gradients, gpus), "bytes",
                  "2 x (gpus - 1) / gpus x gradients")  # fmt: skip
        self._add("k-means, a round", formulas.sums_bytes(self.recipe.k, self._width), "bytes",
                  "8 x k x D")  # fmt: skip

    def time(self) -> None:
        """Of a step, the parts of an iteration, and a run."""
        self._part, rate, job, work = "time", self.rate, self.job, self.work
        train, cluster = self.recipe.train, self.recipe.cluster
        clips = self.group * self.rank_groups
        step = self._add(
            "step",
            formulas.step_seconds(clips, self.clip_seconds, self["network gradients, a step"],
                                  job.gpus, rate["network"]),
            "seconds",
            f"{clips} clips / (together x the smaller of clips a GPU takes and gets) + "
            "gradients sent / network", "step", "feed", "together", "network",
        )  # fmt: skip
        steps = steps_per_iteration(train, int(job.videos // train.batch))
        training = self._add("training", steps * step, "seconds", f"{steps:,} steps",
                             "step", "feed", "together", "network")  # fmt: skip
        features = self._add(
            "features",
            job.videos / job.gpus * formulas.clip_seconds(
                work.encode, self.shape.frames * self.pixels, speed=rate["encode"],
                feed=rate["feed"],
            ),
            "seconds",
            f"videos / gpus / the smaller of encode / {work.encode:.4g} FLOP and clips a GPU gets",
            "encode", "feed",
        )  # fmt: skip
        again = 0.0
        if job.gpus > 1:
            again = self._add(
                "features read back", self._features / job.nodes / rate["storage"], "seconds",
                "features of a pass on disk / nodes / storage", "storage",
            )  # fmt: skip
        points = min(cluster.max_samples or math.inf, job.videos)
        every = job.videos * (points < job.videos)
        clustering = self._add(
            "clustering, at most",
            sum(self._kmeans_seconds(points, every, width) for width in work.clusterings),
            "seconds",
            f"{len(work.clusterings)} x 2 x D x k x ({points:,.0f} x (cluster.max_iter + 1) + "
            f"{every:,.0f}) / gpus / kmeans, the start on one GPU, the sums", "kmeans", "network",
        )  # fmt: skip
        self._add("iteration", training + features + again + clustering, "seconds",
                  "all but the step", *ALL)  # fmt: skip
        run = self._add(
            "run",
            self.passes * (features + again) + train.iterations * (training + clustering),
            "seconds", f"{train.iterations} iterations, {self.passes} with a pass for features",
            *ALL,
        )  # fmt: skip
        self._add("run, all GPUs", job.gpus * run, "seconds", "gpus x run", *ALL)

    def _kmeans_seconds(self, points: float, every: float, width: int) -> float:
        k, settings = self.recipe.k, self.recipe.cluster
        return formulas.kmeans_seconds(
            formulas.start_operations(points, k, width, settings.max_iter, settings.n_init),
            formulas.fit_operations(points, k, width, settings.max_iter, every),
            settings.max_iter, formulas.sums_bytes(k, width), speed=self.rate["kmeans"],
            ranks=self.job.gpus, network=self.rate["network"],
        )  # fmt: skip

    def memory(self) -> None:
        """Of a GPU, and of the host for its process; programs themselves are not counted."""
        self._part, job, weights = "memory", self.job, self.work.weights
        rows, clusterings = job.videos / job.gpus, len(clusterings_of(self.recipe.method))
        cluster = self.recipe.cluster
        prepared = bool(cluster.pca) or cluster.normalize == "centered-l2"
        self._add(
            "GPU, at the least",
            formulas.training_memory(weights, self.work.training, job.gpus), "bytes",
            f"{4 if job.gpus > 1 else 3} x 4 x {weights:,} weights + outputs of the convolutions "
            f"for {self.group} clips",
        )  # fmt: skip
        held = [
            self._add("host, features", self._features / job.gpus, "bytes",
                      f"{self._size} x D of all encoders x videos / gpus"),
            self._add(
                "host, points",
                formulas.points_memory(rows, self._width, self._size, prepared), "bytes",
                f"({self._size} x D{' x 2' * prepared} + {formulas.OF_A_POINT}) x videos / gpus",
            ),
            self._add("host, assignments", formulas.labels_memory(job.videos, clusterings), "bytes",
                      f"2 x {formulas.OF_A_LABEL} x clusterings x videos"),
        ]  # fmt: skip
        each = self._add("host, a process", sum(held), "bytes", "the three above")
        processes = math.ceil(job.gpus / job.nodes)
        self._add("host, first node", processes * each + 8 * job.videos, "bytes",
                  f"{processes} processes, and 8 x videos that the first one gathers")  # fmt: skip

    def disk(self) -> None:
        """Of the run folder."""
        self._part, work, iterations = "disk", self.work, self.recipe.train.iterations
        held = [
            self._add("checkpoints", 2 * formulas.checkpoint_bytes(work.weights), "bytes",
                      "2 x 8 x weights"),
            self._add("features of a pass", self._features, "bytes",
                      f"{self._size} x D of all encoders x videos"),
            self._add("clusterings", 8 * len(work.clusterings) * self.job.videos * iterations,
                      "bytes", "8 x videos x clusterings x train.iterations"),
        ]  # fmt: skip
        if self.recipe.cluster.features == "training":
            held.append(self._add("memory bank", self._features, "bytes", "as of a pass"))
        self._add("at the most", sum(held), "bytes", "those above")

    def requests(self) -> None:
        """What a run asks of the storage."""
        self._part, train = "requests", self.recipe.train
        steps = steps_per_iteration(train, int(self.job.videos // train.batch))
        clips = self.passes * self.job.videos + train.iterations * steps * train.batch
        self._add("of a run", 2 * clips, "GET", "2 x (clips of features + clips of training)")
        self._add("bytes of a run", clips * self["feed bytes of a clip"], "bytes",
                  "clips x bytes of a clip", "jpeg_bytes", "aspect")  # fmt: skip

    def money(self, prices: Mapping[str, float]) -> tuple[str, ...]:
        """Of what has a price; returns the keys of bills that have none."""
        self._part = "money"
        months = (self["packing jpeg, all cores"] + self["time run"]) / MONTH
        bills = {
            "gpu_hour": ("GPUs", self["time run, all GPUs"] / 3600, "hours of all GPUs", ALL),
            "core_hour": ("packing", self["packing jpeg, one core"] / 3600, "core-hours of jpeg",
                          ("jpeg_pack", "aspect")),
            "tb_month": ("storage", self["storage jpeg"] / 1e12 * months,
                         "TB of jpeg x months of packing and run",
                         ("jpeg_bytes", "aspect", "jpeg_pack", *ALL)),
            "million_requests": ("requests", self["requests of a run"] / 1e6, "GET / 10^6", ()),
            "tb_egress": ("egress", self["requests bytes of a run"] / 1e12, "TB of a run",
                          ("jpeg_bytes", "aspect")),
        }  # fmt: skip
        total = 0.0
        for key, (name, count, what, rates) in bills.items():
            if key in prices:
                total += self._add(name, count * prices[key], "money",
                                   f"{what} ({count:,.4g}) x {key} ({prices[key]:g})",
                                   *rates)  # fmt: skip
        self._add("in all", total, "money", "those above")
        return tuple(key for key in bills if key not in prices)

    @property
    def _width(self) -> int:
        """Features of the widest clustering."""
        return max(self.work.clusterings, default=0)

    @property
    def _size(self) -> int:
        """Bytes of a number of a feature."""
        return np.dtype(self.recipe.cluster.precision).itemsize

    @property
    def _features(self) -> float:
        """Bytes of the features of all samples."""
        return self._size * sum(self.work.widths.values()) * self.job.videos
