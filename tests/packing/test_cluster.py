"""Parts on a Ray cluster: the same bytes, also when a node dies in mid-run."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.common.media import make_media
from xdc_fast.errors import UserError
from xdc_fast.packing import cluster
from xdc_fast.packing.convert import convert_all
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.tools.shard import main

PORT = 29666


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for k in range(16):
        level = 0.1 + 0.02 * k
        make_media(folder / f"{k:02d}.mp4", seconds=1.2, size=(48, 32), level=level, rate=16000)
    (folder / "05.mp4").write_text("no film")
    return folder


def slowly(path, settings, spans, sink_of):
    time.sleep(1)
    yield from convert_all(path, settings, spans, sink_of)


def run(videos, out, task=convert_all, **options):
    settings = PackSettings(short_side=32, fps=10)
    return pack(
        collect([videos], None, out), out, settings, part=2, workers=1, task=task, **options
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_ray_or_a_cluster_it_is_one_line(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["pack", str(videos), str(tmp_path / "set"), "--engine", "ray"]
    done = CliRunner().invoke(main, arguments)
    said = done.stderr.splitlines()[-1]
    assert done.exit_code == 2 and "pip install xdc_fast[ray]" in said
    done = CliRunner().invoke(main, [*arguments[:3], "--address", "head:6379"])
    assert done.exit_code == 2 and "only with engine=ray" in done.stderr


class FakeRay:
    """As much of Ray as the driver asks for; every task is run when it is waited for."""

    def __init__(self, cpus):
        self.cpus, self.flying, self.most = cpus, [], 0
        self.exceptions = type("exceptions", (), {"RayError": ConnectionError})

    def init(self, **options):
        self.options = options

    def cluster_resources(self):
        return {"CPU": self.cpus}

    def remote(self, **options):
        def decorate(function):
            def start(*arguments):
                self.flying.append(arguments)
                self.most = max(self.most, len(self.flying))
                return len(self.flying), lambda: function(*arguments)

            return type("Remote", (), {"remote": staticmethod(start)})

        return decorate

    def wait(self, flying, num_returns, timeout):
        return flying[-1:], flying[:-1]

    def get(self, task):
        self.flying.pop()
        return task[1]()

    def shutdown(self):
        self.flying = None


def test_parts_in_flight_are_bounded_and_come_in_any_order(videos, tmp_path, monkeypatch):
    fake = FakeRay(cpus=1)
    monkeypatch.setitem(sys.modules, "ray", fake)
    run(videos, tmp_path / "ray", engine="ray", address="head:6379")
    assert fake.most == cluster.AHEAD and fake.flying is None
    assert fake.options["address"] == "head:6379" and "_node_ip_address" not in fake.options
    run(videos, tmp_path / "one")
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def fail(path, settings, spans, sink_of):
    raise OSError(28, "No space left on device", str(sink_of(0).video))
    yield


def test_what_stops_a_part_stops_the_run_in_one_line(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(cpus=1))
    with pytest.raises(UserError, match=r"packing stopped: .*No space left.* run the same command"):
        run(videos, tmp_path / "ray", engine="ray", task=fail)


DRIVER = """
import sys
from pathlib import Path
from tests.packing.test_cluster import run, slowly
address = sys.argv[3] if len(sys.argv) > 3 else None
if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), slowly, engine="ray", address=address)
"""
HERE = {
    **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip


@pytest.mark.slow
def test_a_cluster_of_this_machine_gives_the_same_bytes(videos, tmp_path):
    pytest.importorskip("ray")
    subprocess.run([sys.executable, "-c", DRIVER, videos, tmp_path / "ray"], env=HERE, check=True)
    run(videos, tmp_path / "one")
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


@pytest.fixture
def short():
    """A folder for sockets, whose names may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        yield folder


@pytest.mark.slow
def test_a_node_dies_and_the_rest_go_on(nodes, videos, tmp_path, short):
    pytest.importorskip("ray")
    here = HERE | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # its own
    out = tmp_path / "set"
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--block"]
    store = "--object-store-memory=80000000"
    lines = [
        [*ray, "--head", f"--port={PORT}", "--node-ip-address=10.77.0.1", store,
         "--include-dashboard=false", f"--temp-dir={short}"],
        [*ray, f"--address=10.77.0.1:{PORT}", "--node-ip-address=10.77.0.2", store],
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = []
    try:
        for node, line in zip(nodes, lines, strict=True):
            inside = ["ip", "netns", "exec", node, *line]
            running.append(subprocess.Popen(inside, env=here, **quiet))
            time.sleep(30)
        inside = ["ip", "netns", "exec", nodes[0], sys.executable, "-c", DRIVER]
        arguments = [str(videos), str(out), f"10.77.0.1:{PORT}"]
        driver = subprocess.Popen([*inside, *arguments], env=here)
        running.append(driver)
        end = time.monotonic() + 100
        while not pids_of(nodes[1], "scratch") and time.monotonic() < end:
            time.sleep(0.1)
        packing = [*out.glob(".packing/parts/0*.json")]
        victims = pids_of(nodes[1])
        assert victims and len(packing) < 8
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        assert driver.wait(timeout=200) == 0
    finally:
        for node in nodes:
            for pid in pids_of(node):
                os.kill(pid, signal.SIGKILL)
        for process in running:
            process.wait()
    run(videos, tmp_path / "one")
    assert contents(out) == contents(tmp_path / "one")


def pids_of(node, writing=""):
    """The processes of a node; writing: that have a file open whose path holds this text."""
    found = subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True)
    return [pid for pid in map(int, found.stdout.split()) if not writing or opens(pid, writing)]


def opens(pid, text):
    try:
        return any(text in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
