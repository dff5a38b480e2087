"""What features and k-means need of memory, against what they take; its refusal."""

import subprocess
import sys

import pytest

from tests.common.pretraining import recipe
from xdc_fast.errors import UserError
from xdc_fast.pretraining import check
from xdc_fast.pretraining.check import check_recipe, clustering_bytes
from xdc_fast.recipe import load_recipe

COUNT = 150_000
TAKEN = """
import re, sys
from pathlib import Path
import numpy as np
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.recipe import Cluster

count, kind = int(sys.argv[1]), sys.argv[2]

def status(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def run(count):
    features = np.empty((2, count, 128), kind)
    for rows in np.array_split(np.arange(count), 200):
        features[:, rows] = np.random.default_rng(0).random((2, len(rows), 128), np.float32)
    settings = Cluster(normalize="centered-l2", max_iter=2)
    cluster([features[0]], np.ones(count, bool), 8, settings, 0)

run(2_000)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
run(count)
print(status("VmHWM") - before)
"""


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_features_and_k_means_take_what_is_said(kind):
    settings = ("video.encoder=r2plus1d_small", "audio.encoder=audio_small")
    how = (f"cluster.precision={kind}", "cluster.normalize=centered-l2")
    chosen = load_recipe(None, (*settings, *how))
    line = [sys.executable, "-c", TAKEN, str(COUNT), kind]
    taken = int(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    assert 0.85 < taken / clustering_bytes(chosen, COUNT, 0) < 1.2


def test_features_that_cannot_fit_are_refused_with_the_way_out(toy_shards, monkeypatch):
    import torch

    chosen, cpu = recipe(toy_shards, ""), torch.device("cpu")
    needed = clustering_bytes(chosen, 48, 48)
    monkeypatch.setattr(check, "memory_of", lambda device: needed - 1)
    with pytest.raises(UserError, match=r"need .* GB of memory, .*; give more machines .*float16"):
        check_recipe(chosen, cpu)
    monkeypatch.setattr(check, "memory_of", lambda device: needed)
    check_recipe(chosen, cpu)
