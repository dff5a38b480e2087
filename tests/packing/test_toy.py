import csv
import filecmp
import itertools
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.stats import chi2_contingency

from xdc_fast.errors import UserError
from xdc_fast.packing import toy


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy") / "world"
    toy.make_toy(out, 40, seed=1, workers=1)
    return out


def labels(out):
    with open(out / "labels.csv", newline="") as file:
        return list(csv.DictReader(file))


def decode(path):
    """Frames uint8 [n, h, w, 3] and waveform float [m] of a file."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.stack(frames), np.concatenate(sound)


@pytest.fixture(scope="module")
def tracks(world):
    """Class, frames and waveform of each video."""
    return [(int(row["class"]), *decode(world / row["file"])) for row in labels(world)]


def test_same_seed_same_bytes_whatever_the_workers(world, tmp_path):
    toy.make_toy(tmp_path / "again", 12, seed=1, workers=2)
    names = [row["file"] for row in labels(tmp_path / "again")]
    same, differ, missing = filecmp.cmpfiles(world, tmp_path / "again", names, shallow=False)
    assert (same, differ, missing) == (names, [], [])
    assert labels(tmp_path / "again") == labels(world)[:12]


def test_another_seed_is_another_world(world, tmp_path):
    toy.make_toy(tmp_path / "other", 2, seed=2, workers=1)
    assert not filecmp.cmp(tmp_path / "other/000000.mp4", world / "000000.mp4", shallow=False)
    assert labels(tmp_path / "other") != labels(world)[:2]


def test_files_are_h264_and_aac_on_one_clock(world):
    assert len(list(world.iterdir())) == 41
    for row in labels(world)[:4]:
        with av.open(str(world / row["file"])) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.pix_fmt, video.average_rate) == ("yuv420p", toy.FRAMES_PER_SECOND)
            assert (audio.sample_rate, audio.layout.name) == (toy.SAMPLE_RATE, "mono")
            assert float(video.duration * video.time_base) == toy.SECONDS
            assert float(audio.duration * audio.time_base) == toy.SECONDS
        frames, sound = decode(world / row["file"])
        assert frames.shape == (toy.SECONDS * toy.FRAMES_PER_SECOND, toy.SIZE, toy.SIZE, 3)
        assert toy.SECONDS * toy.SAMPLE_RATE <= len(sound) < toy.SECONDS * toy.SAMPLE_RATE + 1024
        assert sound.std() > 0.01 and np.abs(sound).max() < 1


def test_a_click_stays_at_its_time(tmp_path):
    frames = np.zeros((45, 64, 64, 3), np.uint8)
    frames[15] = 255
    waveform = np.zeros(48_000, np.float32)
    waveform[16_000] = 0.9
    with (tmp_path / "click.mp4").open("wb") as file:
        toy.write_mp4(file, frames, waveform)
    frames, sound = decode(tmp_path / "click.mp4")
    assert frames.mean((1, 2, 3)).argmax() == 15
    assert abs(np.abs(sound).argmax() - 16_000) < 16


@pytest.mark.parametrize("classes", [2, 7, 10])
def test_classes_are_balanced_and_shuffled(classes):
    order = [
        toy.draw_factors(number, classes, seed=3)[0]["class"] for number in range(20 * classes)
    ]
    assert np.bincount(order).tolist() == [20] * classes
    assert len(set(zip(*[iter(order)] * classes, strict=True))) > 1


def test_factors_are_independent_and_uniform():
    rows = [toy.draw_factors(number, 10, seed=0)[0] for number in range(4000)]
    assert set(rows[0]) == {"class", *toy.DISTRACTORS}
    for one, two in itertools.combinations(rows[0], 2):
        table = np.zeros((10, 10))
        np.add.at(table, ([row[one] for row in rows], [row[two] for row in rows]), 1)
        table = table[table.any(1)][:, table.any(0)]
        assert table.shape == tuple({"class": 10, **toy.DISTRACTORS}[name] for name in (one, two))
        assert chi2_contingency(table).pvalue > 1e-4, (one, two)


def test_sound_shows_the_rate(tracks):
    """The strongest frequency of the envelope is the number of events per second."""

    def events_per_second(sound):
        usable = len(sound) // 160 * 160
        log_power = np.log(np.square(sound[:usable]).reshape(-1, 160).mean(1))
        log_power = (log_power - log_power.mean()) * np.hanning(len(log_power))
        return np.fft.rfftfreq(4096, 0.01)[np.abs(np.fft.rfft(log_power, 4096)).argmax()]

    right = [
        abs(events_per_second(sound) - toy.EVENTS_PER_SECOND[label // 5]) < 0.3
        for label, _, sound in tracks
    ]
    assert np.mean(right) >= 0.9


def edges(frames):
    """Mean absolute differences down and across each frame."""
    gray = frames.mean(3)
    return [np.abs(np.diff(gray, axis=axis)).mean((1, 2)) for axis in (1, 2)]


def test_picture_shows_the_motion(tracks):
    """A flicker puts the disc's stripes out and on, a swing keeps them."""
    swing, flicker = [], []
    for label, frames, _ in tracks:
        strength = sum(edges(frames))
        (flicker if label >= 5 else swing).append(strength.min() / strength.max())
    assert len(flicker) == len(swing) == 20
    assert max(flicker) < min(swing)


def test_picture_shows_the_shape(tracks):
    """Horizontal stripes vary down the picture, vertical ones across it."""
    ratios = {shape: [] for shape in range(5)}
    for label, frames, _ in tracks:
        down, across = edges(frames)
        ratios[label % 5].append(down.mean() / across.mean())
    assert min(ratios[0]) > 1 > max(ratios[1])


@pytest.mark.parametrize(
    "videos, classes, seed, word",
    [
        (4, 1, 0, "1 classes"),
        (4, 11, 0, "11 classes"),
        (0, 4, 0, "0 videos"),
        (4, 4, -1, "seed -1"),
    ],
)
def test_numbers_out_of_range(tmp_path, videos, classes, seed, word):
    with pytest.raises(UserError, match=word):
        toy.make_toy(tmp_path / "out", videos, classes, seed)
    assert not (tmp_path / "out").exists()


def test_a_folder_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("toy:1", "-o", "50%d", "new\nline"):
        toy.make_toy(Path(name), 2, 2)
        assert len(list(Path(name).glob("*.mp4"))) == 2


def test_an_interrupted_call_is_completed(world, tmp_path):
    out = shutil.copytree(world, tmp_path / "out")
    for name in ("000003.mp4", "000039.mp4"):
        (out / name).unlink()
    (out / ".0123456789abcdef.part").write_bytes(b"half")  # of a writer that was killed
    with pytest.raises(UserError, match="not an empty folder"):
        toy.make_toy(out, 40, seed=2)  # another world
    toy.make_toy(out, 40, seed=1)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in world.iterdir())
    for path in world.iterdir():
        assert filecmp.cmp(path, out / path.name, shallow=False)
    (out / "mine.mp4").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        toy.make_toy(out, 40, seed=1)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def same(out, world):
    names = sorted(path.name for path in world.iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    return filecmp.cmpfiles(world, out, names, shallow=False)[0] == names


def test_a_killed_process_costs_no_video(world, tmp_path):
    out = tmp_path / "out"

    def kill():
        wait_for(lambda: list(out.glob("*.mp4")))
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    toy.make_toy(out, 40, seed=1, workers=2)
    killer.join()
    assert same(out, world)


def test_a_killed_call_leaves_no_processes_and_is_completed(world, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from xdc_fast.tools.shard import main; main()"]
    options = ["toy", str(out), "--videos", "40", "--seed", "1", "--workers", "2"]
    with subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: list(out.glob("*.mp4")))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert len(children) >= 2
    wait_for(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children))
    toy.make_toy(out, 40, seed=1)
    assert same(out, world)


def test_never_writes_into_a_used_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        toy.make_toy(tmp_path, 2)
    with pytest.raises(UserError, match="is a file; give a new folder"):
        toy.make_toy(tmp_path / "mine.txt", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
