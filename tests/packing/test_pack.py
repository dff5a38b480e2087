"""The run: workers that hang or die, resuming, bytes, the command."""

import csv
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.common.media import make_media
from tests.common.seal import reseal
from xdc_fast.errors import UserError
from xdc_fast.packing import workers as crew
from xdc_fast.packing.convert import convert_all
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.packing.tracks import Outcome
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import LOCK
from xdc_fast.shards.index import index
from xdc_fast.shards.verify import verify
from xdc_fast.tools.shard import main

SMALL = PackSettings(short_side=32, fps=10)
ODD = Path(__file__).parents[3] / "shared/data/odd_media"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight videos in two class folders, two unusable files and one that is no input."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        for k in range(4):
            pitch = 0.02 * (k + 1) + 0.1 * (name == "cats")
            path = folder / name / f"{k}.mp4"
            make_media(path, seconds=1.2 + 0.1 * k, size=(48, 32), level=pitch, rate=16000)
    make_media(folder / "cats" / "mute.mp4", audio=None, size=(48, 32))
    (folder / "dogs" / "text.mp4").write_text("no film")
    (folder / "dogs" / "notes.txt").write_text("not an input")
    (folder / "dogs" / ".hidden.mp4").write_text("not an input")
    return folder


def run(sources, out, settings=SMALL, labels=None, **options):
    inputs = collect([Path(source) for source in sources], labels, out)
    return pack(inputs, out, settings, **{"workers": 1, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(out):
    with (out / "refused.csv").open() as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


def test_every_input_is_packed_or_refused(videos, tmp_path):
    out = tmp_path / "out"
    summary = run([videos], out)
    assert (summary.inputs, summary.packed, summary.refused) == (10, 8, 2)
    assert refused(out) == {"cats/mute.mp4": "no audio", "dogs/text.mp4": "not media"}
    shards = ShardSet(out)
    table = shards.table()
    assert [row["source"] for row in table] == [
        f"{c}/{k}.mp4" for c in ("cats", "dogs") for k in range(4)
    ]
    assert [int(row["index"]) for row in table] == list(range(8)) == list(shards.rows()["place"])
    # the key is the number of the input; refused ones leave gaps
    assert [int(row["key"]) for row in table] == [0, 1, 2, 3, 5, 6, 7, 8]
    codes, names = shards.label("class")
    assert names == ["cats", "dogs"] and codes.tolist() == [0] * 4 + [1] * 4
    meta = shards.meta(5)
    assert meta["source"] == "dogs/1.mp4" and meta["labels"] == {"class": "dogs"}
    assert meta["frames"] == 13 and meta["seconds"] == pytest.approx(1.3)
    assert shards.manifest["samples"] == 8 and shards.manifest["refused"] == {
        "no audio": 1,
        "not media": 1,
    }
    assert not (out / ".packing").exists()


@pytest.mark.parametrize("codec", ["jpeg", "h264", "copy"])
def test_bytes_do_not_depend_on_workers_or_place(videos, tmp_path, codec):
    settings = PackSettings(short_side=32, fps=10, codec=codec)
    run([videos], tmp_path / "one", settings, workers=1)
    run([videos], tmp_path / "elsewhere" / "three", settings, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "elsewhere" / "three")


def test_shards_are_closed_by_size(videos, tmp_path):
    """shard_mb=0 closes a shard after every sample: the tables stay those of one shard."""
    run([videos], tmp_path / "one")
    summary = run([videos], tmp_path / "many", shard_mb=0)
    one, many = ShardSet(tmp_path / "one"), ShardSet(tmp_path / "many")
    assert summary.shards == len(many.shards) == 8
    for number in range(8):
        assert one.video_file(number) == many.video_file(number)
        assert one.meta(number) == many.meta(number)


def fail_some(path, settings, spans, sink_of):
    """A decoder that hangs on one file and dies on two others."""
    if path.parent.name == "cats" and path.name == "1.mp4":
        time.sleep(600)
    if path.parent.name == "cats" and path.name == "2.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.parent.name == "dogs" and path.name == "0.mp4":
        os._exit(3)
    yield from convert_all(path, settings, spans, sink_of)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_decoder_that_hangs_or_dies_costs_one_file(videos, tmp_path, workers):
    out = tmp_path / "out"
    summary = run([videos], out, workers=workers, time_limit=4, task=fail_some)
    assert (summary.packed, summary.refused) == (5, 5)
    with (out / "refused.csv").open() as file:
        rows = {row["source"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}
    assert rows["cats/1.mp4"] == ("time limit", "4 s")
    assert rows["cats/2.mp4"] == ("decoder died", "signal 11, twice")
    assert rows["dogs/0.mp4"] == ("decoder died", "exit status 3, twice")


def fill_disk(path, settings, spans, sink_of):
    if path.name == "3.mp4":
        raise OSError(28, "No space left on device", str(sink_of(0).video))
    yield from convert_all(path, settings, spans, sink_of)


def test_a_full_disk_stops_the_run_and_keeps_what_is_finished(videos, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"No space left.*run the same command again"):
        run([videos], out, shard_mb=0, task=fill_disk)
    finished = contents(out)["part-000000-00000.tar"]
    stamp = (out / "part-000000-00000.tar").stat().st_mtime_ns
    assert run([videos], out, shard_mb=0).packed == 8
    assert (out / "part-000000-00000.tar").stat().st_mtime_ns == stamp
    run([videos], tmp_path / "whole", shard_mb=0)
    assert contents(out) == contents(tmp_path / "whole")
    assert contents(out)["part-000000-00000.tar"] == finished


def test_a_lock_that_a_killed_process_left_is_no_hindrance(videos, tmp_path):
    """Neither beside a complete set nor where every file was refused."""
    bad = tmp_path / "bad.mp4"
    bad.write_text("no film")
    for number, source in enumerate((videos, bad)):
        out = tmp_path / str(number)
        run([source], out)
        whole = contents(out)
        (out / LOCK).touch()
        run([source], out)
        assert contents(out) == whole


def lose_scratch(path, settings, spans, sink_of):
    shutil.rmtree(sink_of(0).video.parent)
    yield from convert_all(path, settings, spans, sink_of)


def test_what_cannot_be_written_is_not_the_files_fault(videos, tmp_path):
    with pytest.raises(UserError, match=r"packing stopped.*No such file"):
        run([videos], tmp_path / "out", task=lose_scratch)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("run:1", "jpeg"), ("run:1", "copy"), ("-o", "jpeg"), ("a,b", "jpeg"), ("50%d", "jpeg")),
        *(("new\nline", "jpeg"), ("http://x/y", "jpeg"), ("ü\udcff", "jpeg")),
    ],
)
def test_no_name_is_an_address(tmp_path, monkeypatch, name, codec):
    """FFmpeg takes `run:1` for a protocol, and `%d` for a pattern."""
    monkeypatch.chdir(tmp_path)
    make_media(Path("whole.mp4"), seconds=1.2)
    source = Path("in") / name / f"{name.replace('/', '_')}.mp4"
    source.parent.mkdir(parents=True)
    source.write_bytes(Path("whole.mp4").read_bytes())
    for given in (Path("in"), source):
        out = Path(name) / given.name
        summary = run([given], out, PackSettings(codec=codec, short_side=32), workers=1)
        assert (summary.packed, summary.refused) == (1, 0)
        assert verify(out, decode=True)["damaged"] == []
        index(out)


@pytest.mark.parametrize("codec", ["jpeg", "copy"])
def test_an_error_of_the_output_is_told_as_its_own(videos, tmp_path, codec):
    """Whatever its number: here files may not grow as large as the video track."""
    command = ("ulimit -f 8; exec " + shlex.quote(sys.executable)
        + ' -c "from xdc_fast.tools.shard import main; main()" "$@"')  # fmt: skip
    out = tmp_path / "out"
    arguments = ["pack", videos, out, "--codec", codec, "--tracks", "video", "--workers", "1"]
    ended = subprocess.run(
        ["bash", "-c", command, "bash", *arguments], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "packing stopped" in ended.stderr and "large" in ended.stderr
    assert not (out / "refused.csv").exists()


def tell(path, settings, spans, sink_of):
    yield Outcome(0, None, None, Refusal("damaged", str(os.getpid())))


def test_a_worker_that_dies_while_idle_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "AHEAD", 1)  # so that nothing is asked for while an outcome is out
    jobs, pids = [crew.Job(None, n, tmp_path, [None]) for n in range(3)], []
    for _, outcome, _ in crew.run_jobs(jobs, SMALL, tmp_path, 1, 60, tell):
        if outcome is None:
            continue
        pids.append(outcome.answer.detail)
        (worker,) = multiprocessing.active_children()
        worker.kill()
        worker.join()
    assert len(set(pids)) == 3


def slowly(path, settings, spans, sink_of):
    time.sleep(0.3)
    yield from convert_all(path, settings, spans, sink_of)


SCRIPT = """
from pathlib import Path
import sys
from tests.packing.test_pack import run, slowly
if __name__ == "__main__":
    run([sys.argv[1]], Path(sys.argv[2]), shard_mb=0, task=slowly, workers=2)
"""


def test_killed_and_started_again_it_ends_with_the_same_bytes(videos, tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(videos), str(out)]
    process = subprocess.Popen(command, env=here, stderr=subprocess.DEVNULL)
    wait_for(lambda: (out / "part-000000-00002.tar").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((out / ".packing" / "000000").glob("0*.json")))
    assert 2 <= done < 8 and not (out / "manifest.json").exists()
    with pytest.raises(UserError, match=r"other settings \(fps was 10, now 5\)"):
        run([videos], out, PackSettings(short_side=32, fps=5), shard_mb=0)
    with pytest.raises(UserError, match="other inputs"):
        run([videos / "cats"], out, shard_mb=0)
    first = (out / "part-000000-00000.tar").read_bytes()
    (out / "part-000000-00000.tar").unlink()
    with pytest.raises(UserError, match=r"part-000000-00000\.tar: a finished shard is gone"):
        run([videos], out, shard_mb=0)
    (out / "part-000000-00000.tar").write_bytes(first)
    run([videos], out, shard_mb=0, workers=2)
    run([videos], tmp_path / "whole", shard_mb=0)
    assert contents(out) == contents(tmp_path / "whole")


def test_workers_do_not_run_the_main_module_again(videos, tmp_path):
    """Whose imports would keep every one of them waiting."""
    script = tmp_path / "script.py"
    call = "run([sys.argv[1]], Path(sys.argv[2]), workers=2)"  # not even guarded
    lines = ("import sys", "from pathlib import Path", "from tests.packing.test_pack import run")
    script.write_text("\n".join([*lines, "print('started')", call]))
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(videos), str(tmp_path / "out")]
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["started"]
    assert len(ShardSet(tmp_path / "out")) == 8


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_command_prints_its_contract(videos, tmp_path):
    out, options = tmp_path / "out", ("--short-side", 32, "--fps", 10, "--workers", 2, "--json")
    result = cli("pack", videos, out, *options)
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
    assert list(line) == ["inputs", "packed", "refused", "reasons", "shards", "bytes", "seconds"]
    assert line["inputs"] == line["packed"] + line["refused"] == 10
    assert line["reasons"] == {"no audio": 1, "not media": 1} and line["shards"] == 1
    assert line["bytes"] == (out / "part-000000-00000.tar").stat().st_size
    reseal(out, packer={"xdc_fast": "0", "av": "1.0"})  # those of then do not matter to a whole set
    (out / ".packing").mkdir()  # left by a crash after the manifest was written
    again = cli("pack", videos, out, *options)
    assert again.exit_code == 0 and "already packed" in again.stderr
    assert not (out / ".packing").exists()
    assert {**json.loads(again.stdout), "seconds": 0} == {**line, "seconds": 0}
    shown = cli("pack", videos, out, *options[:-1])
    assert shown.stdout.startswith("10 inputs = 8 packed + 2 refused; 1 shards")
    listed = cli("ls", out)
    assert "label class: 2 classes: cats 4, dogs 4" in listed.stdout
    assert json.loads(cli("ls", out, "--json").stdout)["labels"] == {
        "class": {"cats": 4, "dogs": 4}
    }


def test_mistakes_are_one_line_and_status_2(videos, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("precious")
    for arguments, words in [
        (("pack", tmp_path / "nowhere", tmp_path / "out"), "no such file"),
        (("pack", videos, full), "not an empty folder"),
        (("pack", videos, full / "thesis.tex"), "thesis.tex: is a file; choose a folder"),
        (("pack", videos, tmp_path / "out", "--fps", 0), "fps="),
        (("pack", videos, tmp_path / "out", "--short-side", 33), "short_side="),
        (("pack", videos, tmp_path / "out", "--fps", 1e-9), "fps="),
        (("pack", videos, tmp_path / "out", "--max-seconds", 0.5), "max_seconds="),
        (("pack", videos, tmp_path / "out", "--max-seconds", "nan"), "max_seconds="),
        (("pack", videos, tmp_path / "out", "--min-seconds", "nan"), "min_seconds="),
        (("pack", videos, tmp_path / "out", "--min-seconds", "inf"), "min_seconds="),
        (("pack", videos, full / "thesis.tex" / "out"), "choose another folder"),
        (("pack", "n" * 300, tmp_path / "out"), "nnn: File name too long"),
        (("pack", videos, tmp_path / "out", "--codec", "copy", "--max-seconds", 5), "copy"),
        (("verify", tmp_path), "manifest.json"),
        (("ls", full), "manifest.json"),
        (("index", full), "no .tar files"),
    ]:
        result = cli(*arguments)
        assert result.exit_code == 2, arguments
        assert "is kept" not in result.stderr
        said = [line for line in result.stderr.splitlines() if line.startswith("xdc-shard: ")]
        assert len(said) == 1 and words in said[0], result.stderr
    assert (full / "thesis.tex").read_text() == "precious"


def test_nothing_packed_is_a_mistake_that_leaves_the_reasons(videos, tmp_path):
    only = tmp_path / "only"
    only.mkdir()
    (only / "text.mp4").write_text("no film")
    out = tmp_path / "out"
    for _ in range(2):  # the second time it is no "other content" in the way
        result = cli("pack", only, out, "--json")
        assert result.exit_code == 2 and "nothing was packed" in result.stderr
        line = json.loads(result.stdout)
        assert (line["inputs"], line["packed"], line["reasons"]) == (1, 0, {"not media": 1})
        assert refused(out) == {"text.mp4": "not media"}


@pytest.mark.parametrize(
    ("send", "how", "when"),
    [
        (os.kill, signal.SIGINT, ".packing/scratch-*/*"),
        (os.kill, signal.SIGTERM, ".packing/scratch-*/*"),
        (os.killpg, signal.SIGINT, ".packing/scratch-*"),  # from a terminal, while workers start
    ],
)
def test_interrupting_says_how_to_go_on(tmp_path, send, how, when):
    source = tmp_path / "videos"
    source.mkdir()
    first = make_media(source / "a.mp4", seconds=6, size=(160, 120), rate=16000)
    for k in range(40):
        shutil.copy(first, source / f"{k:02d}.mp4")
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from xdc_fast.tools.shard import main; main()"]
    arguments = ["pack", str(source), str(out), "--workers", "2"]
    # a shell ignores SIGINT for what it runs in the background, and children inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command + arguments, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: list(out.glob(when)))
    time.sleep(0.3)
    send(process.pid, how)
    _, errors = process.communicate(timeout=30)
    number = signal.SIGTERM if how == signal.SIGTERM else signal.SIGINT
    assert process.returncode == 128 + number
    assert "run the same command again to continue" in errors and "Traceback" not in errors


@pytest.mark.skipif(not ODD.is_dir(), reason="the odd media are not here")
def test_odd_media(tmp_path):
    """248 odd files: none stops the run, each is packed or refused with a true reason."""
    summary = run([ODD], tmp_path / "out", PackSettings(), workers=2, time_limit=120)
    assert summary.inputs == 248 == summary.packed + summary.refused
    assert "decoder died" not in summary.reasons and "time limit" not in summary.reasons
    reasons = refused(tmp_path / "out")
    packed = {row["source"] for row in ShardSet(tmp_path / "out").table()}
    with (ODD / "INDEX.csv").open() as file:
        for row in csv.DictReader(file):
            reason = reasons.get(row["file"], "packed")
            if row["streams"] == "video":
                assert reason == "no audio", row
            if row["streams"] == "audio":
                assert reason == "no video", row
            if row["streams"] == "audio+video":
                assert reason not in ("no audio", "no video", "not media"), row
    by_hand = {
        "androidx__bear-id3.mp3": "cover art",
        "androidx__silent-black-10s.mp4": "silent",
        "androidx__sample_fragmented_widevine.mp4": "not media",  # encrypted
        "androidx__sample_fragmented_uuid.mp4": "undecodable",  # encrypted
        "androidx__sample-with-large-length.avi": "damaged",  # mp3 blocks all at one moment
        "androidx__sample_unrecognized_hevc_sei.mp4": "too short",  # three frames
        "moviepy__result.webm": "not media",  # empty
        "moviepy__no_duration.webm": "silent",
    }
    assert {name: reasons[name] for name in by_hand} == by_hand
    assert {"torchcodec__nasa_13013.mp4", "moviepy__smpte-2997.mp4"} <= packed
