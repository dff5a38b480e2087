"""Two machines, as network namespaces with a cable between them."""

import os
import signal
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


@pytest.fixture
def settings(toy_shards, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: xdc\n")
    return (recipe, *SETTINGS, "train.group=6", "threads=1", "train.checkpoint_steps=2",
            "train.epochs=12", f"data={toy_shards.root}", f"out={tmp_path / 'run'}")  # fmt: skip


def wait_for_lines(running, out, count):
    """Until so many lines of metrics are there; the seconds that it took."""
    begun, metrics = time.monotonic(), out / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < count:
        assert all(process.poll() is None for process in running), running[0].communicate()
        time.sleep(0.01)
    return time.monotonic() - begun


def assert_ends_with_a_line(processes, since):
    """All processes say within the time limit that another one does not answer."""
    try:
        told = [process.communicate(timeout=20 * PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert time.monotonic() - since < 10 * PATIENCE
    for process, err in zip(processes, told, strict=True):
        assert process.returncode == 2 and "Traceback" not in err, err
        last = [line for line in err.splitlines() if line.startswith("xdc: ")]
        assert len(last) == 1 and "does not answer" in last[0]


def assert_finishes(running, out):
    try:
        told = [process.communicate(timeout=400)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert not any(process.returncode for process in running), told
    assert weights(Run.open(out)) and (out / "encoders.pt").exists()


@pytest.mark.slow
def test_a_cable_is_cut_and_the_run_goes_on_later(nodes, settings, tmp_path):
    out = tmp_path / "run"
    running = start(nodes, settings)
    wait_for_lines(running, out, 1)
    ip("-n", nodes[1], "link", "set", "cable", "down")
    assert_ends_with_a_line(running, time.monotonic())
    assert not (out / "encoders.pt").exists()
    ip("-n", nodes[1], "link", "set", "cable", "up")
    assert_finishes(start(nodes, settings), out)


@pytest.mark.slow
def test_a_slow_cable_slows_the_run_and_no_more(nodes, settings, tmp_path):
    out = tmp_path / "run"
    running = start(nodes, settings)
    wait_for_lines(running, out, 2)
    before = wait_for_lines(running, out, 8) / 6
    narrow = ("tc", "qdisc", "add", "dev", "cable", "root", "tbf", "rate", "500kbit", "burst",
              "4kb", "latency", "1s")  # fmt: skip
    subprocess.run(["ip", "netns", "exec", nodes[1], *narrow], check=True)
    wait_for_lines(running, out, 9)
    after = wait_for_lines(running, out, 11) / 2
    assert after > 3 * before
    wide = ("tc", "qdisc", "del", "dev", "cable", "root")
    subprocess.run(["ip", "netns", "exec", nodes[1], *wide], check=True)
    assert_finishes(running, out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_node_stops_and_the_run_goes_on_later(number, nodes, settings, tmp_path):
    out = tmp_path / "run"
    running = start(nodes, settings)
    wait_for_lines(running, out, 1)
    running[number].send_signal(signal.SIGSTOP)
    assert_ends_with_a_line([running[1 - number]], time.monotonic())
    running[number].kill()
    running[number].communicate()
    assert not (out / "encoders.pt").exists()
    assert_finishes(start(nodes, settings), out)
