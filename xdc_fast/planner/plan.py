"""A plan: what a recipe needs of storage, time, memory and money at some size, before it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from xdc_fast.clusters.points import MOST
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.planner import formulas
from xdc_fast.planner.rates import Rate
from xdc_fast.planner.work import work_of
from xdc_fast.pretraining.check import check_memory_bank
from xdc_fast.pretraining.methods import clusterings_of
from xdc_fast.pretraining.schedule import steps_per_iteration
from xdc_fast.recipe import Recipe
from xdc_fast.shards.format import CODECS, PACKET, SAMPLE

GPUS, NODE, CORES = 64, 8, 64  # processes at most, GPUs of a node, cores of a node
DAY, MONTH = 86_400, 30 * 86_400


@dataclass(frozen=True)
class Job:
    """The size of what is planned.

    videos, seconds: how many, and how long each. gpus: of all nodes, a process each. cores: that
    pack, of all nodes. fps, short_side: of the packed pictures.
    """

    videos: float
    seconds: float
    gpus: int
    nodes: int
    cores: float
    fps: float
    short_side: int


def choose_job(
    recipe: Recipe,
    videos: float = 65e6,
    seconds: float = 15,
    gpus: int | None = None,
    nodes: int | None = None,
    cores: float | None = None,
    fps: float | None = None,
    short_side: int | None = None,
) -> Job:
    """The job of a recipe; what is None follows from the recipe.

    gpus: a group of a batch for each, GPUS at most. nodes: NODE GPUs each. cores: CORES of a node.
    fps: of the recipe's clips. short_side: 8/7 of the recipe's crop, even.
    """
    gpus = gpus or min(GPUS, max(1, recipe.train.batch // recipe.train.group_size))
    nodes = nodes or math.ceil(gpus / NODE)
    if nodes > gpus:
        raise UserError(f"--nodes {nodes}: more than --gpus {gpus}; a node has one at the least")
    check_memory_bank(recipe, gpus)
    if videos < max(recipe.k, recipe.train.batch):
        raise UserError(
            f"--videos {videos:,.0f}: fewer than k={recipe.k} or train.batch="
            f"{recipe.train.batch}; lower these, or plan more videos"
        )
    side = short_side or packed_side(recipe.video.crop)
    if side < recipe.video.crop:
        raise UserError(
            f"--short-side {side}: pictures are smaller than video.crop={recipe.video.crop}"
        )
    return Job(videos, seconds, gpus, nodes, cores or CORES * nodes, fps or recipe.video.fps, side)


def packed_side(crop: int) -> int:
    """The shorter side of packed pictures that leaves a crop room to move: 8/7 of it, even."""
    return 2 * round(crop * 4 / 7)


@dataclass(frozen=True)
class Figure:
    """A number of a plan.

    unit: bytes, seconds, or words. formula: where it comes from, in the words of recipe keys,
    options and rates. rates: the names of the rates that it rests on.
    """

    part: str
    name: str
    value: float
    unit: str
    formula: str
    rates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limit:
    """What a plan needs of something that is there once.

    unit: of need and capacity. rate: the rate that is the capacity, where it is one. change: what
    to do when it is passed. grows: whether the need grows in proportion to the videos or to the
    GPUs; empty: to neither.
    """

    name: str
    need: float
    capacity: float
    unit: str
    change: str
    rate: str = ""
    grows: str = ""

    @property
    def ratio(self) -> float:
        """Above 1, it breaks."""
        return self.need / self.capacity


@dataclass(frozen=True)
class Plan:
    """figures: in the order of a run. limits: the tightest first. unpriced: names of PRICES that
    the file lacks."""

    recipe: Recipe
    job: Job
    rates: Mapping[str, Rate]
    figures: tuple[Figure, ...]
    limits: tuple[Limit, ...]
    unpriced: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        """The value of a figure, by PART NAME."""
        return next(f.value for f in self.figures if f"{f.part} {f.name}" == name)

    def as_dict(self) -> dict:
        """For --json."""
        return {
            "job": vars(self.job),
            "figures": [vars(figure) for figure in self.figures],
            "limits": [vars(limit) | {"ratio": limit.ratio} for limit in self.limits],
            "unpriced": list(self.unpriced),
            "rates": {name: rate.as_dict() for name, rate in self.rates.items()},
        }


def make_plan(
    recipe: Recipe, job: Job, rates: Mapping[str, Rate], prices: Mapping[str, float] | None = None
) -> Plan:
    """The plan of a recipe; its data need not exist.

    prices: by name as of prices.PRICES; figures of money are left out for those that lack.
    """
    rate = {name: each.value for name, each in rates.items()}
    work, shape = work_of(recipe), ClipTransform(recipe).shape
    train, k, rounds = recipe.train, recipe.k, recipe.cluster.max_iter
    group, ranks = train.group_size, job.gpus
    node_ranks = math.ceil(ranks / job.nodes)
    rows = job.videos / ranks
    figures: list[Figure] = []

    def add(
        part: str, name: str, value: float, unit: str, formula: str, *rests: str
    ) -> float:
        figures.append(Figure(part, name, value, unit, formula, rests))
        return value

    pixels = job.short_side**2 * rate["aspect"]
    frames = job.seconds * job.fps
    sound = formulas.sound_bytes(job.seconds, recipe.audio.sample_rate)
    track = {
        "jpeg": frames * pixels * rate["jpeg_bytes"],
        "h264": frames * pixels * rate["h264_bytes"],
        "copy": job.seconds * rate["copy_bytes"],
    }
    stored = {}
    for codec in CODECS:
        has_packets = codec == "jpeg"
        rests = ("copy_bytes",) if codec == "copy" else (f"{codec}_bytes", "aspect")
        video = "copy_bytes" if codec == "copy" else f"fps x short-side^2 x aspect x {codec}_bytes"
        packets = f" + {PACKET.itemsize} x frames" if has_packets else ""
        stored[codec] = add(
            "storage", codec,
            job.videos * formulas.sample_bytes(track[codec], sound, frames * has_packets), "bytes",
            f"videos x (seconds x ({video} + 2 x audio.sample_rate) + "
            f"{3 * formulas.TAR_FILE} of tar + {SAMPLE.itemsize}{packets} of tables)", *rests,
        )  # fmt: skip

    packing = {}
    for codec in CODECS:
        name = f"{codec}_pack"
        each, how = job.seconds / rate[name], f"videos x seconds / {name}"
        rests = (name,)
        if codec != "copy":
            each *= job.fps * pixels
            how = f"videos x seconds x fps x short-side^2 x aspect / {name}"
            rests = (name, "aspect")
        packing[codec] = add("packing", f"{codec}, one core", job.videos * each, "seconds", how,
                             *rests)  # fmt: skip
    packed = add("packing", "jpeg, all cores", packing["jpeg"] / job.cores, "seconds",
                 f"that of one core / {job.cores:,.0f} cores", "jpeg_pack", "aspect")  # fmt: skip

    clip_pixels = shape.frames * pixels
    clip = formulas.clip_bytes(
        shape.frames, job.fps / shape.fps, pixels * rate["jpeg_bytes"], shape.samples
    )
    seconds = partial(formulas.clip_seconds, pixels=clip_pixels, together=rate["together"])
    training_clip = seconds(work.step, speed=rate["step"], feed=rate["feed"])
    wanted = add("feed", "clips a GPU takes", rate["step"] / work.step, "per second",
                 f"step / {work.step:.4g} FLOP of a clip", "step")  # fmt: skip
    fed = add("feed", "clips a GPU gets", rate["feed"] / clip_pixels, "per second",
              "feed / (video.frames x short-side^2 x aspect)", "feed", "aspect")  # fmt: skip
    add("feed", "bytes of a clip", clip, "bytes",
        "((video.frames - 1) x fps / video.fps + 1) x bytes of a frame + 2 x sound samples",
        "jpeg_bytes", "aspect")  # fmt: skip
    taken = ranks / training_clip
    flow = add("feed", "bytes, all GPUs", taken * clip, "bytes per second",
               "gpus x clips of training x bytes of a clip", "step", "feed", "together",
               "jpeg_bytes", "aspect")  # fmt: skip
    asked = add("feed", "requests, all GPUs", 2 * taken, "per second",
                "2 ranges of each clip", "step", "feed", "together")  # fmt: skip
    add("feed", "prefixes", math.ceil(asked / rate["requests"]), "of shards",
        "requests / requests of a prefix", "step", "feed", "together", "requests")  # fmt: skip

    gradients = formulas.FLOAT * work.weights
    width = max(work.clusterings, default=0)
    sums = 8 * k * width
    each = group * formulas.groups_per_rank(train.batch, group, ranks)
    step = add(
        "time", "step",
        formulas.step_seconds(each, training_clip, gradients, ranks, rate["network"]), "seconds",
        f"{each} clips of a GPU x max(FLOP / step, pixels / feed) / together + "
        "2 x (gpus - 1) / gpus x gradients / network", "step", "feed", "together", "network",
    )  # fmt: skip
    steps = steps_per_iteration(train, int(job.videos // train.batch))
    training = add("time", "training", steps * step, "seconds", f"{steps:,} steps",
                   "step", "feed", "together", "network")  # fmt: skip
    features = add(
        "time", "features", rows * seconds(work.encode, speed=rate["encode"], feed=rate["feed"]),
        "seconds",
        f"videos / gpus x max({work.encode:.4g} FLOP / encode, pixels / feed) / together",
        "encode", "feed", "together",
    )  # fmt: skip
    kept = 4 * sum(work.widths.values()) * job.videos
    most = recipe.cluster.max_samples
    points = min(most or math.inf, job.videos)
    every = job.videos * (points < job.videos)
    clustering = sum(
        formulas.kmeans_seconds(
            formulas.start_operations(points, k, each_width, rounds, recipe.cluster.n_init),
            formulas.fit_operations(points, k, each_width, rounds, every), rounds,
            8 * k * each_width, speed=rate["kmeans"], ranks=ranks, network=rate["network"],
        )
        for each_width in work.clusterings
    )  # fmt: skip
    add("time", "clustering", clustering, "seconds",
        "2 x D x k x (points x (cluster.max_iter + 1) + videos) / gpus / kmeans, and the start; "
        "at most", "kmeans", "network")  # fmt: skip
    again = 0.0
    if ranks > 1 and recipe.cluster.features == "pass":
        again = add("time", "features read back", kept / job.nodes / rate["storage"], "seconds",
                    "features on disk / nodes / storage", "storage")  # fmt: skip
    passes = 1 if recipe.cluster.features == "training" else train.iterations
    rests = ("step", "feed", "together", "network", "encode", "kmeans", "storage")
    add("time", "iteration", features + again + clustering + training, "seconds",
        "the four above" if again else "the three above", *rests)  # fmt: skip
    run = add("time", "run", passes * (features + again) +
              train.iterations * (clustering + training), "seconds",
              f"{train.iterations} iterations, {passes} of them with features of a pass",
              *rests)  # fmt: skip

    held = kept / ranks
    points_held = formulas.points_memory(rows, width)
    assignments = 4 * len(clusterings_of(recipe.method)) * job.videos
    gathered = 8 * job.videos
    device = add("memory", "GPU, at the least",
                 formulas.training_memory(work.weights, work.training, ranks), "bytes",
                 f"4 x {work.weights:,} weights x (weights, gradients, momentum, sums) + outputs of "
                 f"the convolutions for {group} clips")  # fmt: skip
    add("memory", "host, features", held, "bytes", "4 x features of all encoders x videos / gpus")
    add("memory", "host, points", points_held, "bytes", "2 x 4 x D x videos / gpus")
    add("memory", "host, assignments", assignments, "bytes", "4 x clusterings x videos")
    rank = add("memory", "host, a process", held + points_held + assignments, "bytes",
               "the three above")  # fmt: skip
    host = add("memory", "host, the first node", node_ranks * rank + gathered, "bytes",
               f"{node_ranks} processes, and 8 x videos that the first one gathers")  # fmt: skip

    add("network", "gradients, a step", gradients, "bytes", f"4 x {work.weights:,} weights")
    add("network", "gradients, sent by a GPU", formulas.ring_bytes(gradients, ranks), "bytes",
        "2 x (gpus - 1) / gpus x gradients")  # fmt: skip
    add("network", "k-means, a round", sums, "bytes", "8 x k x D")

    bank = kept if recipe.cluster.features == "training" else 0.0
    checkpoints = add("disk", "checkpoints", 2 * formulas.checkpoint_bytes(work.weights, bank),
                      "bytes", "2 x 8 x weights" + " + 2 x features" * bool(bank))  # fmt: skip
    on_disk = add("disk", "features of a pass", kept, "bytes",
                  "4 x features of all encoders x videos")  # fmt: skip
    results = add("disk", "clusterings", 8 * len(work.clusterings) * job.videos * train.iterations,
                  "bytes", "8 x videos x clusterings x train.iterations")  # fmt: skip
    disk = add("disk", "at the most", checkpoints + on_disk + results, "bytes", "the three above")

    gets = 2 * (passes * job.videos + train.iterations * steps * train.batch)
    add("requests", "of a run", gets, "GET", "2 x clips of features and training")

    unpriced = []
    if prices is not None:
        months = (packed + run) / MONTH
        bills = {
            "gpu_hour": ("GPUs", ranks * run / 3600, "gpus x hours of a run"),
            "core_hour": ("packing", packing["jpeg"] / 3600, "core-hours of jpeg"),
            "tb_month": ("storage", stored["jpeg"] / 1e12 * months,
                         "TB of jpeg x months of packing and run"),
            "million_requests": ("requests", gets / 1e6, "GET / million"),
            "tb_egress": ("egress", gets / 2 * clip / 1e12, "clips x bytes of a clip"),
        }  # fmt: skip
        total = 0.0
        for key, (name, count, how) in bills.items():
            if key in prices:
                total += add("money", name, count * prices[key], "money",
                             f"{how} ({count:,.4g}) x {key} ({prices[key]:g})")  # fmt: skip
            else:
                unpriced.append(key)
        add("money", "in all", total, "money", "those above")

    limits = _limits(
        recipe, job, rate, device=device, host=host, wanted=wanted, fed=fed, flow=flow, asked=asked,
        disk=disk, alone=each * training_clip, summing=step - each * training_clip,
    )  # fmt: skip
    limits.sort(key=lambda limit: -limit.ratio)
    return Plan(recipe, job, rates, tuple(figures), tuple(limits), tuple(unpriced))


def _limits(
    recipe: Recipe,
    job: Job,
    rate: Mapping[str, float],
    *,
    device: float,
    host: float,
    wanted: float,
    fed: float,
    flow: float,
    asked: float,
    disk: float,
    alone: float,
    summing: float,
) -> list[Limit]:
    """What is there once, and what is needed of it, as figures of make_plan.

    alone, summing: seconds of a step for the encoders, and for the sum of the gradients.
    """
    train, ranks = recipe.train, job.gpus
    group, groups = train.group_size, train.batch / train.group_size
    least = packed_side(recipe.video.crop)
    return [
        Limit(
            "groups", ranks * (formulas.groups_per_rank(train.batch, group, ranks)
                               if groups % ranks else 1), groups,
            "groups of a batch, as many for each GPU",
            f"train.batch={group * ranks * math.ceil(groups / ranks)}, or a smaller train.group; "
            "`xdc pretrain` refuses a batch of other groups", grows="gpus",
        ),
        Limit("device memory", device, rate["device_memory"], "bytes",
              f"train.group={max(1, group // 2)}", "device_memory"),
        Limit("host memory", host, rate["host_memory"], "bytes of the first node",
              f"--nodes {2 * job.nodes} with as many GPUs", "host_memory", "videos"),
        Limit("feed", wanted, fed, "clips per second and GPU",
              f"pack with --short-side {least}" if job.short_side > least else
              "more cores and threads for each GPU", "feed"),
        Limit("storage", flow / job.nodes, rate["storage"], "bytes per second and node",
              "shards on local disks, or the GPUs on more nodes", "storage", "gpus"),
        Limit("requests", asked, rate["requests"] * rate["prefixes"], "GET per second",
              f"spread the shards over {math.ceil(asked / rate['requests'])} prefixes", "requests",
              "gpus"),
        Limit("disk", disk, rate["disk"], "bytes", "another out=FOLDER", "disk", "videos"),
        Limit("network", summing, alone, "seconds of a step, for sums and for encoders",
              f"train.batch={2 * train.batch}, so that a GPU has more groups", "network"),
        Limit("exact sums", job.videos, MOST, "samples that k-means adds up without rounding",
              "none; clusters then depend on the number of processes", grows="videos"),
    ]  # fmt: skip


def vary(plan: Plan, prices: Mapping[str, float] | None = None, **changes: float) -> Plan:
    """The plan of the same recipe with another k, or of another job: videos, gpus."""
    recipe = replace(plan.recipe, k=int(changes.pop("k", plan.recipe.k)))
    job = replace(plan.job, **changes)
    if "gpus" in changes:
        nodes = math.ceil(job.gpus * plan.job.nodes / plan.job.gpus)
        job = replace(job, nodes=nodes)
    return make_plan(recipe, job, plan.rates, prices)
