"""The report of a made-up run over a few packed clips: what it shows is what is there."""

import base64
import io
import itertools
import json
import math
import re
import tarfile
import wave

import av
import numpy as np
import pytest
import simplejpeg
from sklearn.metrics import normalized_mutual_info_score

from tests.common.media import make_media
from tests.common.reporting import (
    SECONDS,
    K,
    Page,
    codes_of,
    last,
    make_clips,
    make_run,
    packed,
    read,
)
from tests.common.runs import TINY
from xdc_fast.errors import UserError
from xdc_fast.evaluation.probe import ProbeSettings, probe
from xdc_fast.models.load import load
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import load_recipe
from xdc_fast.report import charts, matching, pictures
from xdc_fast.report.page import write_report
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames
from xdc_fast.shards.index import index as rebuild_index


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def shards(clips, tmp_path_factory):
    return packed(clips, tmp_path_factory.mktemp("shards") / "set")


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    run = make_run(shards, tmp_path_factory.mktemp("runs") / "run")
    model = load("random", recipe=load_recipe(None, (*TINY, "train.batch=30")))
    probe(model, shards, "class", ProbeSettings(clips=1), out=run.root)
    return run


@pytest.fixture(scope="module")
def text(run, shards):
    path = write_report(run, shards)
    assert path == run.root / "report.html"
    return path.read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def content(uri, kind):
    head, data = uri.split(",", 1)
    assert head == f"data:{kind};base64"
    return base64.b64decode(data, validate=True)


def test_needs_nothing_beside_itself(text, page):
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert not page.all("link") and not [e for e in page.all("script") if "src" in e]
    assert all(e["src"].startswith("data:") for e in page.elements if "src" in e)
    ids = [e["id"] for e in page.elements if "id" in e]
    assert len(ids) == len(set(ids))
    assert {e["href"][1:] for e in page.all("a")} <= set(ids)


def test_names_are_shown_and_not_obeyed(text, page, run):
    # the browser reads them back as they were; the source holds none of them raw
    assert {e["text"] for e in page.all("h3")} >= {"class 3 classes", "shade 2 classes"}
    assert "<drum>" not in text and "<b>&" not in text
    assert "07 <b>&.mp4" in {e["text"] for e in page.all("span", _class="source")}
    assert "<drum>" in {e["text"] for e in page.all("span", _class="title")}


def test_headline_figures(page, run):
    found = [e for e in page.elements if "tile" in e.get("class", "").split()]
    tiles = [" ".join(e["text"].split()) for e in found]
    record = run.summary()["iterations"][-1]
    chance = r"0\.\d{3}"
    (kept,) = (json.loads(path.read_text()) for path in run.root.glob("probes/*.json"))
    for tile, name in zip(tiles, ("video", "audio"), strict=False):
        ours, random, least = (
            f"{100 * value:.1f} %"
            for value in (kept[name]["pretrained"], kept[name]["random"], kept["chance"])
        )
        assert tile == f"{ours}{name} probeclass; random {random}, chance {least}"
    assert re.fullmatch(
        rf"{record['nmi_audio_video']:.3f}NMI\(audio, video\)chance {chance}", tiles[2]
    )
    assert tiles[3].startswith("91clips per second") and tiles[4].startswith("4.0 %waiting")
    (facts,) = page.all("p", _class="facts")
    shown = " ".join(facts["text"].split())
    assert shown == "XDC k = 5 30 samples 3 iterations 12 min 34 s"
    (note,) = page.all("p", _class="unreadable")
    assert note["text"].startswith("1 samples could not be read")


def test_probes_of_one_encoder_and_of_unfinished_runs(run):
    (kept,) = (json.loads(path.read_text()) for path in run.root.glob("probes/*.json"))
    early = {key: value for key, value in kept.items() if key != "video"} | {"finished": False}
    chart = Page(charts.probe_chart("Probes", [kept, early]))
    names = [e["text"] for e in chart.all("text", _class="strong")]
    assert names == ["class", "class (unfinished)"]
    assert len(chart.all("circle")) == 2 * 3  # pretrained and random of three encoders


def test_labels_and_shares_agree_with_a_recount(page, run, shards):
    names = codes_of(shards)
    for clustering, arrays in last(run).items():
        for c, card in page.cards(clustering).items():
            mine = [names[i] for i in np.flatnonzero(arrays["assignment"] == c) if names[i]]
            shown = {
                title["text"]: part["text"]
                for title, part in zip(
                    page.all("span", card, _class="title"),
                    page.all("span", card, _class="part"),
                    strict=True,
                )
            }
            assert shown == {n: f"({mine.count(n) / len(mine):.2f})" for n in set(mine)}
            counts = [mine.count(n) for n in shown]
            assert counts == sorted(counts, reverse=True)


def test_samples_are_those_nearest_the_centroid(page, run):
    for clustering, arrays in last(run).items():
        for c, card in page.cards(clustering).items():
            shown = [int(e["data-index"]) for e in page.all("figure", card)]
            members = np.flatnonzero(arrays["assignment"] == c)
            order = members[np.argsort(arrays["distance"][members])]
            assert shown == order[:6].tolist()


def test_frames_are_the_shards_packets(page, shards):
    duration = SECONDS
    for figure in page.all("figure", _class="sample")[:4]:
        name, row = shards.row(int(figure["data-index"]))
        thirds = [page_frame(share, duration, row) for share in (1 / 6, 3 / 6, 5 / 6)]
        packets = [p.tobytes() for p in shards.packets(name, row, np.array(thirds))]
        (strip,) = page.all("div", figure, _class="frames")
        assert [content(e["src"], "image/jpeg") for e in page.all("img", strip)] == packets


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_large_frames_are_shown_small(tmp_path, codec):
    path = make_media(tmp_path / "x.mp4", size=(480, 320))
    out, settings = tmp_path / "set", PackSettings(short_side=320, codec=codec)
    pack(collect([path], None, out), out, settings, workers=1)
    shards, numbers = ShardSet(out), np.array([3, 20])
    whole = decode_frames(shards.video_file(0), numbers)
    for frame, wanted in zip(pictures.read_frames(shards, 0, numbers), whole, strict=True):
        shown = simplejpeg.decode_jpeg(frame)
        halved = wanted.reshape(160, 2, 240, 2, 3).mean(axis=(1, 3))
        assert shown.shape == (160, 240, 3) and np.abs(shown - halved).mean() < 3


def test_sets_without_metadata_are_named_by_their_table(shards, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for index in range(len(shards)):
            files = {"mp4": shards.video_file(index), "wav": shards.audio_file(index)}
            for kind, data in files.items():
                info = tarfile.TarInfo(f"film{index:02d}.{kind}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    rebuild_index(tmp_path)
    foreign = ShardSet(tmp_path)
    page = Page(
        write_report(make_run(foreign, tmp_path / "run", iterations=1), foreign).read_text()
    )
    figures = page.all("figure", _class="sample")
    assert figures
    for figure in figures:
        (caption,) = page.all("figcaption", figure)
        assert f"film{int(figure['data-index']):02d}" in caption["text"]


def page_frame(share, duration, row):
    return min(math.floor(share * duration * row["fps"] + 1e-6), int(row["frames"]) - 1)


def test_sound_is_the_shards_pcm(page, shards):
    for figure in page.all("figure", _class="sample")[:4]:
        with wave.open(io.BytesIO(shards.audio_file(int(figure["data-index"])))) as file:
            packed_pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        (audio,) = page.all("audio", figure)
        with wave.open(io.BytesIO(content(audio["src"], "audio/wav"))) as file:
            assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16000, 2, 1)
            shown = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert len(shown) == round(SECONDS * 16000)
        assert np.array_equal(shown, packed_pcm)


def test_spectrogram_is_a_picture_with_low_frequencies_at_the_bottom(page, run):
    mels = run.recipe.audio.n_mels
    for image in page.all("img", _class="mel")[:3]:
        with av.open(io.BytesIO(content(image["src"], "image/png"))) as container:
            pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert pixels.shape == (mels, 1 + (round(SECONDS * 16000) - 256) // 160, 3)
        brightest = pixels.sum(axis=2).mean(axis=1).argmax()
        edges = 2595 * np.log10(1 + 8000 / 700) * np.arange(1, mels + 1) / (mels + 1)
        tone = np.abs(edges - 2595 * np.log10(1 + 440 / 700)).argmin()
        assert abs((mels - 1 - brightest) - tone) <= 2


def test_png_and_colours():
    colours = pictures.colour_map()
    linear = np.where(colours < 10, colours / 3294.6, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    assert (np.diff(linear @ [0.2126, 0.7152, 0.0722]) > 0).all()  # brighter is more
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11), dtype=np.uint8)
    with av.open(io.BytesIO(pictures.png(pixels, colours))) as container:
        seen = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.array_equal(seen, colours[pixels])


def test_same_bytes_again(run, shards, text):
    assert write_report(run, ShardSet(shards.root)).read_text() == text


def test_curves_of_labels_end_where_the_run_does(page, run, shards):
    figures = run.summary()["iterations"][-1]["clusters"]
    for label in ("class", "shade"):
        (chart,) = [e for e in page.all("svg") if e.get("aria-label") == f"NMI with {label}"]
        labels = [e["text"] for e in page.all("text", chart) if "label" in e.get("class", "")]
        codes, _ = shards.label(label)
        for name, arrays in last(run).items():
            both = (codes >= 0) & (arrays["assignment"] >= 0)
            nmi = normalized_mutual_info_score(codes[both], arrays["assignment"][both])
            assert figures[name]["labels"][label]["nmi"] == pytest.approx(nmi)
            assert f"{name} {nmi:.2f}" in labels


def test_other_methods_codecs_and_sets_without_labels(clips, tmp_path):
    shards = packed(clips, tmp_path / "plain", labels=False, codec="h264")
    run = make_run(shards, tmp_path / "run", iterations=1, method="cdc")
    page = Page(write_report(run, shards).read_text())
    assert len(page.cards("joint")) == K and not page.cards("video")
    assert not read(run.root / "quality.csv")
    rows = read(run.root / "clusters.csv")
    assert len(rows) == K and all(
        row["top1"] == row["purity"] == row["label"] == "" for row in rows
    )
    assert {e["href"] for e in page.all("a")} == {"#curves", "#sizes", "#joint", "#figures"}
    strip = page.all("div", _class="frames")[0]
    pictures_shown = [content(e["src"], "image/jpeg") for e in page.all("img", strip)]
    with av.open(io.BytesIO(pictures_shown[1])) as container:
        assert next(container.decode(video=0)).to_ndarray(format="rgb24").shape == (48, 64, 3)


def test_shows_the_heads_of_a_method_with_four(shards, tmp_path):
    run = make_run(shards, tmp_path / "run", iterations=2, method="mdc")
    page = Page(write_report(run, shards).read_text())
    (chart,) = [e for e in page.all("svg") if e.get("aria-label") == "Loss by step"]
    labels = {e["text"] for e in page.all("text", chart) if "label" in e.get("class", "")}
    pairs = itertools.product(("video", "audio"), repeat=2)
    assert labels == {f"{encoder} from {teacher} 1.20" for encoder, teacher in pairs}


def test_refuses_a_run_without_an_iteration(shards, tmp_path):
    run = Run.start(load_recipe(None, (f"out={tmp_path / 'run'}",)), "a set")
    with run.hold():
        pass  # writes the recipe
    with pytest.raises(UserError, match="no iteration finished"):
        write_report(run, shards)


def test_refuses_shards_of_another_run(clips, shards, run, tmp_path):
    other = packed(clips, tmp_path / "other", codec="h264")
    with pytest.raises(UserError, match=r"other shards than .*other"):
        write_report(run, other)


def test_matching_finds_the_best_pairs():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 4, (2, 200)).astype(np.int32)
    found = matching.match(a, b, 4)
    best = max(
        sum(((a == i) & (b == j)).sum() for i, j in enumerate(order))
        for order in itertools.permutations(range(4))
    )
    assert found.share == pytest.approx(best / 200)
    for i, j in itertools.product(range(4), repeat=2):
        in_a, in_b = a == found.rows[i], b == found.columns[j]
        assert found.counts[i, j] == (in_a & in_b).sum()
        assert found.overlap[i, j] == pytest.approx((in_a & in_b).sum() / (in_a | in_b).sum())
    assert (np.diff(np.diag(found.overlap)) <= 0).all()


def test_matching_shows_the_largest_of_many():
    sizes = np.arange(1, 81)
    a = np.repeat(np.arange(80), sizes).astype(np.int32)
    found = matching.match(a, (a * 7 % 80).astype(np.int32), 80)
    assert found.share == 1 and np.array_equal(found.overlap, np.eye(64))
    assert sorted(found.rows) == list(range(16, 80))


def test_chance_is_what_shuffling_leaves():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, 300), rng.integers(0, 30, 300)
    a[:5] = -1
    shuffled = [normalized_mutual_info_score(a[5:], rng.permutation(b[5:])) for _ in range(50)]
    assert matching.chance_nmi(a, b, 20, 30) == pytest.approx(np.mean(shuffled), rel=0.05)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.037), (2.3, 4.61), (0, 73), (0, 123456), (0.5, 0.5)]
)
def test_ticks_are_round_and_span_the_values(low, high):
    ticks = charts.nice_ticks(low, high)
    steps = np.diff(ticks)
    assert ticks[0] <= low and ticks[-1] >= high and 3 <= len(ticks) <= 7
    assert np.allclose(steps, steps[0])
    assert float(f"{steps[0]:.2g}") == pytest.approx(steps[0])


def test_labels_of_lines_do_not_touch():
    for heights in ([50, 51], [20, 20, 20], [149, 150, 148], [8, 150], [100.0]):
        moved = charts.spread(heights, 8, 150)
        order = np.argsort(heights, kind="stable")
        assert (np.diff(np.array(moved)[order]) >= charts.GAP - 1e-9).all()
        assert min(moved) >= 8 - 1e-9 and max(moved) <= 150 + 1e-9
    assert charts.spread([20, 90], 8, 150) == [20, 90]


def test_segments_of_one_file_are_told_apart(tmp_path):
    long = make_media(tmp_path / "long.mp4", seconds=4)
    pack(collect([long], None, tmp_path / "set"), tmp_path / "set",
         PackSettings(short_side=32, segment=2))  # fmt: skip
    shards = ShardSet(tmp_path / "set")
    assert [pictures.name_of(shards, i) for i in (0, 1)] == ["long.mp4", "long.mp4 from 2 s"]


def test_the_heading_counts_what_the_run_learned_from(shards, tmp_path):
    run = make_run(shards, tmp_path / "run", iterations=1)
    run.save_summary(run.summary() | {"learned": 7})
    page = Page(write_report(run, shards).read_text())
    (facts,) = page.all("p", _class="facts")
    assert "7 samples" in facts["text"] and f"{len(shards)} samples" not in facts["text"]
