"""Two machines, as network namespaces with a cable between them."""

import os
import subprocess
import sys
import time

import pytest

from tests.common.nodes import ip
from tests.common.pretraining import SETTINGS, weights
from xdc_fast.pretraining.run import Run

PATIENCE = 6  # seconds
COMMAND = f"""
import sys
from datetime import timedelta
from xdc_fast import ranks
ranks.PATIENCE = timedelta(seconds={PATIENCE})
from xdc_fast.__main__ import xdc
xdc()
"""


def start(nodes, settings):
    running = []
    for rank, node in enumerate(nodes):
        environment = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "10.77.0.1",
            "MASTER_PORT": "29555", "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        line = ["ip", "netns", "exec", node, sys.executable, "-c", COMMAND, "pretrain", *settings]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen([*map(str, line)], env=environment, **pipes))
    return running


@pytest.mark.slow
def test_a_cable_is_cut_and_the_run_goes_on_later(nodes, toy_shards, tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text("method: xdc\n")
    settings = (recipe, *SETTINGS, "train.group=6", "threads=1", "train.checkpoint_steps=2",
                "train.epochs=40", f"data={toy_shards.root}", f"out={out}")  # fmt: skip
    running = start(nodes, settings)
    while not (out / "metrics.jsonl").is_file() or not (out / "metrics.jsonl").read_text():
        assert all(process.poll() is None for process in running), running[0].communicate()
        time.sleep(0.01)
    ip("-n", nodes[1], "link", "set", "cable", "down")
    cut = time.monotonic()
    try:
        told = [process.communicate(timeout=10 * PATIENCE)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert time.monotonic() - cut < 4 * PATIENCE
    for process, err in zip(running, told, strict=True):
        assert process.returncode == 2 and "Traceback" not in err, err
        last = [line for line in err.splitlines() if line.startswith("xdc: ")]
        assert len(last) == 1 and "does not answer" in last[0]
    assert not (out / "encoders.pt").exists()

    ip("-n", nodes[1], "link", "set", "cable", "up")
    for process in start(nodes, settings):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert weights(Run.open(out)) and (out / "encoders.pt").exists()
