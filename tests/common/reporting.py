"""A made-up run over a few packed clips, and its page taken apart."""

import csv
from html.parser import HTMLParser

import numpy as np

from tests.common.media import make_media
from xdc_fast.clusters.kmeans import Clustering
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.pretraining.methods import clustering_name, clusterings_of, heads_of
from xdc_fast.pretraining.records import cluster_record, iteration_record, run_record
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import load_recipe
from xdc_fast.shards.dataset import ShardSet

CLIPS, K, SECONDS, FPS = 30, 5, 1.6, 15
CLASSES = ("flute", "<drum>", "bell & gong", "")  # the last: no label
VOID = {"meta", "img", "link", "br"}


def make_clips(folder):
    """CLIPS short videos with labels.csv; a quarter have no class."""
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "shade", "class"])
        for i in range(CLIPS):
            name = f"{i:02d} <b>&.mp4" if i == 7 else f"{i:02d}.mp4"
            make_media(folder / name, seconds=SECONDS, fps=FPS, size=(64, 48), level=0.1 + i / 100)
            table.writerow([name, f"s{i % 2}", CLASSES[i % 4]])
    return folder


def packed(clips, out, labels=True, **settings):
    inputs = collect([clips], clips / "labels.csv" if labels else None, out)
    pack(inputs, out, PackSettings(short_side=48, **settings), workers=2)
    return ShardSet(out)


def make_run(shards, root, iterations=3, method="xdc", seed=0):
    """A run folder as the loop leaves it, its clusters made up."""
    rng = np.random.default_rng(seed)
    settings = (f"out={root}", f"data={shards.root}", f"k={K}", f"method={method}")
    run = Run.start(load_recipe(None, settings), shards.fingerprint)
    with run.hold():
        pass  # writes the recipe
    names = [clustering_name(modalities) for modalities in clusterings_of(method)]
    before, records = {}, []
    for number in range(iterations):
        found = {}
        for name in names:
            assignment = rng.integers(0, K, len(shards)).astype(np.int32)
            distance = rng.random(len(shards), dtype=np.float32)
            assignment[3], distance[3] = -1, np.inf  # one that could not be read
            found[name] = Clustering(assignment, np.zeros((K, 2), np.float32), distance, 0.5, 0)
        run.save_clusters(number, found)
        clusters = cluster_record(
            found, before, K, shards, n_unreadable=1, extract_seconds=1.0, cluster_seconds=1.0
        )
        before = {name: c.assignment for name, c in found.items()}
        heads = [head.name for head in heads_of(method)]
        for step in range(1, 5):
            losses = {f"{name}_loss": 1.6 - step / 10 for name in heads}
            run.add_metrics({"iteration": number, "step": step, **losses})
        sums = {f"{name}_loss": 4 * (1.5 - number / 10) for name in heads}
        sums |= {f"{name}_accuracy": 4 * (0.2 + number / 10) for name in heads}
        sums |= {"steps": 4, "seconds": 4 * K / (90 + number)}
        sums["wait"] = 0.04 * sums["seconds"]
        record = iteration_record(
            number, method, K, sums, clusters, {"undecodable": 2} if number else {}
        )
        run.add_metrics(record)
        records.append(record)
    run.save_summary(run_record(method, K, shards, len(shards), records, 754.4))
    return run


class Page(HTMLParser):
    """A page as a list of elements; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        inside = [element for _, element in self.open]
        element = {"tag": tag, "text": "", "in": inside, **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append((tag, element))

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", "in": [], **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        expected, _ = self.open.pop()
        assert tag == expected, f"</{tag}> closes <{expected}>"

    def handle_data(self, data):
        for _, element in self.open:
            element["text"] += data

    def all(self, tag, within=None, **attributes):
        return [
            e
            for e in self.elements
            if e["tag"] == tag
            and all(e.get(key.strip("_")) == value for key, value in attributes.items())
            and (within is None or any(outer is within for outer in e["in"]))
        ]

    def cards(self, clustering):
        """{cluster: element} in the order of the page."""
        found = self.all("article", _class="card")
        prefix = f"{clustering}-"
        return {int(e["id"][len(prefix) :]): e for e in found if e["id"].startswith(prefix)}


def last(run):
    summary = run.summary()
    return run.clusters(summary["iterations"][-1]["iteration"], summary["samples"])


def codes_of(shards):
    return [row["class"] for row in shards.table()]


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
