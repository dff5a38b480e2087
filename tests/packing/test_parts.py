"""Parts: whoever packs them, and however often he dies, they become the same set."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.common.media import make_media
from xdc_fast.errors import UserError
from xdc_fast.packing.convert import convert_all
from xdc_fast.packing.pack import Share, pack
from xdc_fast.packing.seal import seal, status
from xdc_fast.packing.settings import PackSettings, ShardLimit
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.verify import verify
from xdc_fast.tools.shard import main

SMALL = PackSettings(short_side=32, fps=10)
COUNT = 11  # videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for k in range(COUNT):
        level = 0.1 + 0.02 * k
        make_media(folder / f"{k:02d}.mp4", seconds=1.2, size=(48, 32), level=level, rate=16000)
    (folder / "05.mp4").write_text("no film")
    rows = [f"{k:02d}.mp4,{'abc'[k % 3]}" for k in range(COUNT)]
    (folder / "labels.csv").write_text("\n".join(["file,letter", *rows]) + "\n")
    return folder


def run(videos, out, labels=None, **options):
    inputs = collect([videos], labels or videos / "labels.csv", out)
    return pack(inputs, out, SMALL, **{"workers": 1, "part": 2, "shard_mb": 0, **options})


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "set"
    assert run(videos, out, workers=2).packed == COUNT - 1
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shares_become_the_same_set_in_any_order(videos, whole, tmp_path):
    out, packed = tmp_path / "set", 0
    for number in (2, 0):
        packed += run(videos, out, share=Share(number, 3)).packed
    with pytest.raises(UserError, match=r"2 of 6 parts are missing: 1, 4; pack them first"):
        seal(out)
    assert not (out / "manifest.json").exists()
    summary = run(videos, out, share=Share(1, 3), workers=2)
    assert (summary.inputs, packed + summary.packed, summary.refused) == (4, COUNT - 1, 0)
    assert seal(out).packed == COUNT - 1 == len(ShardSet(out))
    assert contents(out) == contents(whole)
    assert seal(out).already and run(videos, out, share=Share(0, 3)).already


def test_a_set_of_many_parts_is_read_like_one(videos, whole, tmp_path):
    run(videos, tmp_path / "one", part=1024, shard_mb=None)
    one, many = ShardSet(tmp_path / "one"), ShardSet(whole)
    assert one.shards == ["part-000000-00000.tar"] and len(many.shards) == COUNT - 1
    assert many.shards[4:6] == ["part-000002-00000.tar", "part-000003-00000.tar"]
    assert one.keys == many.keys == [f"{k:09d}" for k in range(COUNT) if k != 5]
    assert one.sources == many.sources and one.label("letter")[1] == ["a", "b", "c"]
    assert one.label("letter")[0].tolist() == many.label("letter")[0].tolist()
    for a, b in zip(one, many, strict=True):
        assert a.meta == b.meta and a.labels == b.labels and (a.audio() == b.audio()).all()
        assert (a.video() == b.video()).all() and (a.key, a.source) == (b.key, b.source)
    assert verify(whole, decode=True)["damaged"] == []


def test_segments_of_a_list_stay_with_their_file(videos, tmp_path):
    """A part ends where a file does; the key is the number of the input, and of its segment."""
    table = tmp_path / "list.csv"
    lines = [f"{videos}/{k:02d}.mp4,{t}," for t in (0.5, 0, 0.1) for k in (1, 0)]
    table.write_text("\n".join(["path,start,end", *lines]) + "\n")
    settings = PackSettings(short_side=32, fps=10, segment=0.5, min_seconds=0.2)
    pack(collect([table], None, tmp_path / "s"), tmp_path / "s", settings, part=2, workers=1)
    shards = ShardSet(tmp_path / "s")
    assert shards.shards == ["part-000000-00000.tar", "part-000001-00000.tar"]
    found = {}
    for key, source, start in zip(shards.keys, shards.sources, shards.starts, strict=True):
        found.setdefault((key[:9], Path(source).name), []).append((key[9:], start))
    assert list(found) == [(f"{n:09d}", f"0{1 - n // 3}.mp4") for n in range(6)]
    assert found["000000000", "01.mp4"][:2] == [("-00000", 0.0), ("-00001", 0.5)]
    assert found["000000001", "01.mp4"][0] == ("-00000", 0.1)


def stop_at_seven(path, settings, spans, sink_of):
    if path.stem == "07":
        raise OSError(28, "No space left on device", str(sink_of(0).video))
    yield from convert_all(path, settings, spans, sink_of)


def test_status_tells_what_is_missing_and_when_it_ends(videos, tmp_path):
    out = tmp_path / "set"
    with pytest.raises(UserError, match="nothing is being packed there"):
        status(out)
    with pytest.raises(UserError, match="No space left"):
        run(videos, out, task=stop_at_seven)
    found = status(out, time.time() + 70)
    assert (found.parts, found.done_parts, found.missing) == (6, 3, [3, 4, 5])
    assert (found.videos, found.done_videos) == (COUNT, 7)  # one of part 3 too
    assert 0.08 < found.rate < 0.11 and found.left == pytest.approx(4 / found.rate)
    assert status(out, time.time() + 7200).left is None
    shown = CliRunner().invoke(main, ["status", str(out)])
    assert "3 of 6 parts and 7 of 11 videos" in shown.stdout and "missing parts: 3, 4, 5" in (
        shown.stdout
    )
    run(videos, out)
    assert "a complete set of 11 inputs" in CliRunner().invoke(main, ["status", str(out)]).stdout


def test_another_tar_of_the_same_name_is_no_harm(videos, tmp_path):
    """As a process leaves it that refused a file for want of time, and died."""
    out = tmp_path / "set"
    with pytest.raises(UserError, match="No space left"):
        run(videos, out, task=stop_at_seven)
    other = out / "part-000003-00001.tar"
    other.write_bytes(b"another")
    assert run(videos, out).packed == COUNT - 1
    shards = ShardSet(out)
    name = next(name for name in shards.shards if name.startswith("part-000003-00001"))
    assert name == f"part-000003-00001-{shards.record(name)['sha256'][:8]}.tar"
    assert not other.exists() and verify(out)["damaged"] == []


def record_elsewhere(path, settings, spans, sink_of):
    """While a file is converted, another process refuses it, and records that."""
    records = sink_of(0).video.parents[1] / "000001"
    if path.stem == "02" and not records.exists():
        refused = [["02.mp4", "time limit", "1 s", "", ""]]
        told = {"refused": refused, "cut": 0, "unpaired": [], "next": 3, "told": 0, "shard": None}
        records.mkdir()
        (records / "00000.json").write_text(json.dumps(told))
    yield from convert_all(path, settings, spans, sink_of)


def test_the_first_record_of_a_tar_counts(videos, tmp_path):
    summary = run(videos, tmp_path / "set", task=record_elsewhere, workers=2)
    assert summary.reasons == {"not media": 1, "time limit": 1}
    shards = ShardSet(tmp_path / "set")
    assert shards.sources == [f"{k:02d}.mp4" for k in range(COUNT) if k not in (2, 5)]
    assert verify(tmp_path / "set", decode=True)["damaged"] == []


def test_a_shard_has_a_hundred_samples_unless_they_are_huge():
    default, own = ShardLimit(), ShardLimit(8)
    assert not default.is_full(99, 300_000_000) and default.is_full(100, 256_000_000)
    assert not default.is_full(1000, 255_000_000) and default.is_full(2, 4_096_000_000)
    assert own.is_full(1, 8_000_000) and not own.is_full(1000, 7_999_999)


SCRIPT = """
import sys
from pathlib import Path
from tests.packing.test_parts import run
from xdc_fast.storage import place_of
if __name__ == "__main__":
    videos, out, labels = map(place_of, sys.argv[1:4])
    run(videos, out, labels, workers=int(sys.argv[4]))
"""


def packer(videos, out, workers, labels=None):
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    labels = labels or videos / "labels.csv"
    command = [sys.executable, "-c", SCRIPT, str(videos), str(out), str(labels), str(workers)]
    return subprocess.Popen(command, env=here, stderr=subprocess.PIPE, text=True)


def workers_of(process):
    """The processes that a packer has started, and those they have."""
    found = [process.pid]
    for pid in found:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        found += map(int, children.read_text().split()) if children.exists() else []
    return found[1:]


def kill_and_go_on(videos, whole, out, kills, seed):
    """Two packers on one set; one of them, or a worker, is killed now and then."""
    draw = random.Random(seed)
    running = [packer(videos, out, 1 + k) for k in range(2)]
    for _ in range(kills):
        time.sleep(draw.uniform(0.5, 3))
        victim = draw.randrange(2)
        pids = workers_of(running[victim])
        worker = draw.random() < 0.3 and pids
        with suppress(ProcessLookupError):
            os.kill(draw.choice(pids) if worker else running[victim].pid, signal.SIGKILL)
        if not worker:
            running[victim].communicate()
            running[victim] = packer(videos, out, 1 + draw.randrange(2))
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert contents(out) == contents(whole)


def test_two_packers_of_which_one_is_killed(videos, whole, tmp_path):
    kill_and_go_on(videos, whole, tmp_path / "set", 2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_packers_and_workers_are_killed_at_random(videos, whole, tmp_path, seed):
    """Twenty kills: five of each set while it is packed and sealed."""
    kill_and_go_on(videos, whole, tmp_path / "set", 5, seed)
