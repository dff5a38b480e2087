"""The cluster analysis of a made-up run: the tables of its page, and the CSV files."""

import itertools
import math
import re

import numpy as np
import pytest
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)
from sklearn.metrics.cluster import contingency_matrix

from tests.common.reporting import (
    CLIPS,
    K,
    Page,
    codes_of,
    last,
    make_clips,
    make_run,
    packed,
    read,
)
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import load_recipe
from xdc_fast.report import cards
from xdc_fast.report.page import write_report
from xdc_fast.report.tables import text


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    clips = make_clips(tmp_path_factory.mktemp("clips"))
    return packed(clips, tmp_path_factory.mktemp("shards") / "set")


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    return make_run(shards, tmp_path_factory.mktemp("runs") / "run", iterations=2)


@pytest.fixture(scope="module")
def page(run, shards):
    return Page(write_report(run, shards).read_text())


def recount(arrays, names, k=K):
    """(members, purity, clusters by purity) of a clustering, cluster by cluster."""
    members = [np.flatnonzero(arrays["assignment"] == c) for c in range(k)]
    kinds = [[names[i] for i in m if names[i]] for m in members]
    purity = [max(map(labels.count, labels)) / len(labels) for labels in kinds]
    least = min(6, int(np.median([len(m) for m in members])))
    large = [c for c in range(k) if len(members[c]) >= least]
    return members, purity, sorted(large, key=lambda c: (-purity[c], -len(members[c]), c))


def test_cards_are_the_purest_the_least_pure_and_the_largest_others(page, run, shards):
    for clustering, arrays in last(run).items():
        members, purity, ranked = recount(arrays, codes_of(shards))
        ends = ranked[:2] + ranked[2:][-2:]
        others = [c for c in range(K) if c not in ends]
        largest = sorted(others, key=lambda c: (-len(members[c]), c))[: 6 - len(ends)]
        assert list(page.cards(clustering)) == ends + largest
        for c, card in page.cards(clustering).items():
            (size,) = page.all("p", card, _class="size")
            count = f"{len(members[c])} sample{'s' * (len(members[c]) != 1)}"
            assert size["text"] == f"{count}, purity {purity[c]:.2f}"


def cells(page, table):
    """The rows of a table's body as texts."""
    rows = [row for body in page.all("tbody", table) for row in page.all("tr", body)]
    return [[" ".join(e["text"].split()) for e in page.all("td", row)] for row in rows]


def test_the_ranking_shows_both_ends_with_their_labels(page, run, shards):
    names = codes_of(shards)
    for clustering, arrays in last(run).items():
        members, purity, ranked = recount(arrays, names)
        (section,) = page.all("section", id=clustering)
        (table,) = page.all("table", section, _class="ends")
        half = (len(ranked) + 1) // 2
        for kind, expected in (("top", ranked[:half]), ("bottom", ranked[half:])):
            (body,) = page.all("tbody", table, _class=kind)
            assert [int(page.all("td", row)[1]["text"]) for row in page.all("tr", body)] == expected
        for rank, (line, c) in enumerate(zip(cells(page, table), ranked, strict=True), 1):
            shown = [str(rank), str(c), str(len(members[c])), f"{purity[c]:.2f}"]
            assert line[:4] == shown
            parts = re.findall(r"(\S.*?) \((\d\.\d\d)\)(?:, |$)", line[4])
            mine = [names[i] for i in members[c] if names[i]]
            assert dict(parts) == {n: f"{mine.count(n) / len(mine):.2f}" for n in set(mine)}


def test_many_clusters_show_five_of_either_end():
    rng = np.random.default_rng(0)
    sizes = np.r_[[3, 4], np.full(38, 12)]  # the small ones may be pure, and are not ranked
    assignment = np.repeat(np.arange(40), sizes).astype(np.int32)
    codes = rng.integers(0, 4, len(assignment))
    codes[assignment == 0] = 2
    arrays = {"assignment": assignment, "centroids": np.zeros((41, 2))}  # one is empty
    arrays["distance"] = rng.random(len(assignment))
    table = np.stack([np.bincount(codes[assignment == c], minlength=4) for c in range(41)])
    deck = cards.deal("video", arrays, table, list("abcd"))
    purity = table[:40].max(axis=1) / sizes
    ranked = sorted(range(2, 40), key=lambda c: (-purity[c], c))
    shown = [[card.number for card in end] for _, end in deck.ends]
    assert shown == [ranked[:5], ranked[-5:]] and deck.least == 6
    assert {title: [c.number for c in group] for title, group in deck.groups} == {
        "purest": ranked[:2],
        "least pure": ranked[-2:],
        "largest": sorted(set(range(2, 40)) - {*ranked[:2], *ranked[-2:]})[:2],
    }
    assert [c.number for c in deck.by_purity] == [*ranked, 0, 1]


def test_figures_against_labels_are_scikit_learns(page, run, shards):
    tables = page.all("table", _class="quality")
    lines = [line for table in tables for line in cells(page, table) if line]
    found = read(run.root / "quality.csv")
    asked = [(label, name) for label in ("class", "shade") for name in ("video", "audio")]
    assert [(row["label"], row["clustering"]) for row in found] == asked
    for (label, name), line, row in zip(asked, lines, found, strict=True):
        assignment = last(run)[name]["assignment"]
        codes, classes = shards.label(label)
        both = (codes >= 0) & (assignment >= 0)
        a, b = assignment[both], codes[both]
        scores = (normalized_mutual_info_score, adjusted_mutual_info_score, adjusted_rand_score)
        expected = [score(b, a) for score in scores]
        counts = contingency_matrix(a, b)
        expected.append((counts.max(axis=1) / counts.sum(axis=1)).mean())
        expected.append(counts.max(axis=1).sum() / len(a))
        expected.append(
            max(
                sum(counts[c, i] for i, c in enumerate(chosen))
                for chosen in itertools.permutations(range(K), len(classes))
            )
            / len(a)
        )
        shown = [float(cell.replace("\N{MINUS SIGN}", "-")) for cell in line[1:]]
        assert line[0] == name and shown == pytest.approx(expected, abs=5.1e-4)
        columns = ("nmi", "ami", "ari", "mean_purity", "purity", "accuracy")
        assert [float(row[c]) for c in columns] == pytest.approx(expected, abs=1e-6)
        sizes = np.bincount(assignment[assignment >= 0], minlength=K)
        share = sizes / sizes.sum()
        assert (row["k"], row["empty"], row["classes"]) == (str(K), "0", str(len(classes)))
        assert float(row["largest_share"]) == pytest.approx(share.max(), abs=1e-6)
        entropy = -(share * np.log(share)).sum()
        assert float(row["effective"]) == pytest.approx(np.exp(entropy), abs=1e-5)


def test_clusters_as_csv_agree_with_a_recount(page, run, shards):
    names = codes_of(shards)
    found = read(run.root / "clusters.csv")
    lines = {(row["clustering"], int(row["cluster"])): row for row in found}
    assert list(lines) == [(name, c) for name in ("video", "audio") for c in range(K)]
    for (name, c), row in lines.items():
        members = np.flatnonzero(last(run)[name]["assignment"] == c)
        mine = [names[i] for i in members if names[i]]
        share = {n: mine.count(n) / len(mine) for n in set(mine)}
        assert (int(row["samples"]), row["label"]) == (len(members), "class")
        assert float(row["purity"]) == pytest.approx(max(share.values()), abs=1e-6)
        entropy = -sum(part * math.log(part) for part in share.values())
        assert float(row["entropy"]) == pytest.approx(entropy, abs=1e-6)
        tops = {row[f"top{i}"]: row[f"share{i}"] for i in (1, 2, 3) if row[f"top{i}"]}
        assert {n: float(part) for n, part in tops.items()} == pytest.approx(share, abs=1e-6)
        assert list(tops.values()) == sorted(tops.values(), reverse=True)


def test_assignments_as_csv(page, run, shards):
    found = read(run.root / "assignments.csv")
    assert [row["index"] for row in found] == [str(i) for i in range(CLIPS)]
    assert [row["source"] for row in found] == shards.sources
    for name, arrays in last(run).items():
        assert [int(row[name]) for row in found] == arrays["assignment"].tolist()


TINY = (
    "video.encoder=r2plus1d_tiny",
    "video.crop=32",
    "audio.encoder=audio_tiny",
    "train.iterations=1",
    "train.epochs=1",
    "train.batch=12",
)


@pytest.mark.parametrize(
    ("method", "more", "clusterings"),
    [
        ("same", ("k=6",), ["video", "video_twin", "audio", "audio_twin"]),
        ("supervised", ("k=4", "label=class"), ["label"]),
    ],
)
def test_methods_with_twins_and_with_labels(toy_shards, tmp_path, method, more, clusterings):
    settings = (*TINY, f"method={method}", *more, f"data={toy_shards.root}", f"out={tmp_path}/run")
    pretrain(load_recipe(None, settings))
    run = Run.open(tmp_path / "run")
    page = Page(write_report(run, toy_shards).read_text())
    assert [e["id"] for e in page.all("section") if "deck" in e.get("class", "")] == clusterings
    assert all(page.cards(name) for name in clusterings)
    rows = read(run.root / "quality.csv")
    assert [row["clustering"] for row in rows if row["label"] == "class"] == clusterings
    (chart,) = [e for e in page.all("svg") if e.get("aria-label") == "Loss by step"]
    lines = [e["class"] for e in page.all("text", chart) if "label" in e.get("class", "")]
    (facts,) = page.all("p", _class="facts")
    if method == "same":  # a twin: its modality's colour, dashed by the style sheet
        assert lines == ["label video", "label video twin", "label audio", "label audio twin"]
        assert "Same-modality control" in facts["text"]
    else:
        assert lines == ["label video", "label audio"] and "Supervised label class" in facts["text"]
        (row,) = [row for row in rows if row["label"] == "class"]
        assert [float(row[f]) for f in ("nmi", "ami", "ari", "purity", "accuracy")] == [1] * 5
        assert not [
            e for e in page.all("h3") if e["text"] in ("Stability", "Pseudo-label accuracy")
        ]


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("=1+1", "'=1+1"),
        ("+a", "'+a"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("-0BIyqJj9ZU.mp4", "-0BIyqJj9ZU.mp4"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(cell, wanted):
    assert text(cell) == wanted
