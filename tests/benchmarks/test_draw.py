"""The drawn tables and chart: they hold the results, and the committed ones are up to date."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.draw import draw, rounded

ROOT = Path(__file__).parents[2]
MACHINE = {
    "cpu": "AMD Ryzen",
    "cores": 4,
    "memory_gib": 23.46,
    "gpu": None,
    "driver": None,
    "system": "Linux 6.1",
    "python": "3.11.7",
    "libraries": {"torch": "2.11.0"},
    "commit": "abc123",
    "load": 0.5,
}
PAGE = """# Title

<!-- draw: feed -->
old text
<!-- end -->

Kept.

<!-- draw: mel -->
<!-- end -->

<!-- draw: later -->
<!-- end -->

Kept too."""
SVG = "{http://www.w3.org/2000/svg}"


def make_item(case, ours, peers, limit=None, unit="clips per second", **other):
    return {
        "stage": "mel",
        "case": case,
        "device": "AMD Ryzen, 4 cores",
        "threads": 1,
        "unit": unit,
        "ours": ours,
        "peers": peers,
        "missing": {},
        "limit": {"name": "bare copy", "value": limit} if limit else None,
        "ratio_best_peer": ours / max(peers.values()) if peers else None,
        "share_of_limit": ours / limit if limit else None,
        "runs": 7,
        "quartiles": {},
        "quick": False,
        "machine": MACHINE,
    } | other


ITEMS = [
    make_item("short|clips", 2346515.3, {"slow": 393160.9, "fast": 744375.6}, 4033106.4),
    make_item("long <clips>", 80.0, {"slow": 30.25, "fast": 98.76}, 160.0, threads=2),
    make_item("on a GPU", 5e6, {"other & co": 1e6}, device="GPU X"),
    make_item("memory", 512.4, {"thrifty": 128.1, "hungry": 4096.0}, unit="MiB"),
    make_item(
        "one peer", 3.0, {"only": 2.0}, 2.5, stage="feed", missing={"gone": "no such module"}
    ),
]


@pytest.fixture
def root(tmp_path):
    """A repository with results and pages."""
    (tmp_path / "benchmarks/results/some-device").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/performance.md").write_text(PAGE)
    (tmp_path / "README.md").write_text("A\n\n<!-- draw: summary -->\n<!-- end -->\n\nB\n")
    put(tmp_path, ITEMS)
    return tmp_path


def put(root, items):
    (root / "benchmarks/results/some-device/all.json").write_text(json.dumps(items))


def drawn(root, name):
    return draw(root)[root / name]


def rows_of(text):
    """The cells of the Markdown tables in a text, by the first cell and then by column."""
    rows, columns = {}, None
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if columns is None:
            columns = cells
        elif not set(line) <= set("|-: "):
            assert len(cells) == len(columns)
            rows[cells[0]] = dict(zip(columns, cells, strict=True))
    return rows


def number(cell):
    """The last number of a cell."""
    return float(re.findall(r"[\d,]*\.?\d+", cell)[-1].replace(",", ""))


def test_tables_hold_the_results(root):
    rows = rows_of(drawn(root, "docs/performance.md"))
    assert rows.keys() == {item["case"] for item in ITEMS}
    for item in ITEMS:
        cells = rows[item["case"]]
        assert cells["unit"] == item["unit"] and cells["threads"] == str(item["threads"])
        assert number(cells["ours"]) == pytest.approx(item["ours"], rel=5e-3)
        if item["unit"] == "MiB":
            continue
        best = max(item["peers"], key=item["peers"].get)
        assert cells["best peer"].startswith(f"{best} ")
        assert number(cells["best peer"]) == pytest.approx(item["peers"][best], rel=5e-3)
        times = item["ours"] / item["peers"][best]
        assert number(cells["ratio"]) == pytest.approx(times, rel=5e-3)
        if item["limit"]:
            assert cells["limit"].startswith("bare copy ")
            assert number(cells["limit"]) == pytest.approx(item["limit"]["value"], rel=5e-3)
            share = 100 * item["ours"] / item["limit"]["value"]
            assert number(cells["of the limit"]) == pytest.approx(share, rel=5e-3)


def test_figures_without_a_clock_have_no_ratio(root):
    cells = rows_of(drawn(root, "docs/performance.md"))["memory"]
    assert cells["best peer"] == "thrifty 128, hungry 4,100" and cells["ratio"] == "–"
    assert "memory" not in drawn(root, "docs/performance.svg")
    put(root, [make_item("alone", 3, {}, unit="MiB")])
    text = drawn(root, "docs/performance.md")
    assert rows_of(text)["alone"] == {
        "case": "alone",
        "threads": "1",
        "unit": "MiB",
        "ours": "3.00",
    }
    assert "Not measured yet." in drawn(root, "README.md")


def test_page_names_machine_devices_and_what_was_missing(root):
    text = drawn(root, "docs/performance.md")
    facts = "AMD Ryzen, 4 cores, 23.5 GiB, Linux 6.1, Python 3.11.7, torch 2.11.0, commit abc123"
    assert text.count(facts) == 3  # once for each stage and device
    assert text.count("**AMD Ryzen, 4 cores**") == 2 and text.count("**GPU X**") == 1
    assert "Not measured: gone (no such module)." in text


def test_summary_spans_lowest_and_highest_ratio(root):
    text = drawn(root, "README.md")
    assert "(docs/performance.svg)" in text
    rows = rows_of(text)
    assert list(rows) == ["feed", "mel"]
    assert rows["mel"]["AMD Ryzen, 4 cores"] == "0.810× to 3.15× fast"
    assert rows["mel"]["GPU X"] == "5.00× other & co"
    assert rows["feed"]["AMD Ryzen, 4 cores"] == "1.50× only" and rows["feed"]["GPU X"] == "–"
    put(root, [ITEMS[0], make_item("other best", 20.0, {"slow": 2.0, "fast": 1.0})])
    assert "3.15× fast to 10.0× slow" in drawn(root, "README.md")


def test_chart_is_to_scale(root):
    picture = ElementTree.fromstring(drawn(root, "docs/performance.svg"))
    text = [node.text for node in picture.iter(f"{SVG}text")]
    assert {"mel", "feed", "GPU X", "3.15×", "other & co", "long <clips>"} <= set(text)
    ticks = {}
    for node in picture.iter(f"{SVG}text"):
        if node.get("text-anchor") == "middle":
            ticks[float(node.text.rstrip("×"))] = float(node.get("x"))
    low, high = min(ticks), max(ticks)

    def value(x):
        share = (x - ticks[low]) / (ticks[high] - ticks[low])
        return low * math.exp(share * math.log(high / low))

    for tick, x in ticks.items():
        assert value(x) == pytest.approx(tick, rel=0.01)
    rates = [ITEMS[4], ITEMS[0], ITEMS[1], ITEMS[2]]  # feed before mel, the GPU last
    bars = [r for r in picture.iter(f"{SVG}rect") if r.get("class") in ("faster", "slower")]
    for item, bar in zip(rates, bars, strict=True):
        start, width = float(bar.get("x")), float(bar.get("width"))
        times = item["ours"] / max(item["peers"].values())
        ends = sorted((times, 1.0))
        assert [value(start), value(start + width)] == pytest.approx(ends, rel=0.01)
        assert bar.get("class") == ("faster" if times > 1 else "slower")
    marks = [float(r.get("x")) + 1.75 for r in picture.iter(f"{SVG}rect") if len(r)]
    limits = [i["limit"]["value"] / max(i["peers"].values()) for i in rates if i["limit"]]
    assert [value(x) for x in marks] == pytest.approx(limits, rel=0.01)


def test_drawing_again_changes_nothing(root):
    first = draw(root)
    for path, text in first.items():
        path.write_text(text)
    assert draw(root) == first
    page = first[root / "docs/performance.md"]
    assert "Kept.\n" in page and page.endswith("Kept too.") and "old text" not in page
    assert page.count("Not measured yet.") == 1
    readme = first[root / "README.md"]
    assert readme.startswith("A\n") and readme.endswith("B\n")


def test_results_without_a_place_are_refused(root):
    put(root, [make_item("x", 2.0, {"p": 1.0}, stage="unplaced")])
    with pytest.raises(SystemExit, match="draw: unplaced"):
        draw(root)


def test_an_open_block_swallows_nothing(root):
    (root / "docs/performance.md").write_text(PAGE.replace("<!-- end -->", "", 1))
    with pytest.raises(SystemExit, match="draw: feed"):
        draw(root)


@pytest.mark.parametrize(
    "other, why", [({"quick": True}, "--quick"), ({"failed": "p: other"}, "p: other")]
)
def test_no_result_to_show(root, other, why):
    put(root, [make_item("x", 2.0, {"p": 1.0}) | other])
    with pytest.raises(SystemExit, match=rf"all\.json: x: .*{why}"):
        draw(root)


def test_rounded():
    values = (0, 1, 12.349, 999.6, 0.09996, 1234567, 99.96, -3.14159)
    texts = ["0", "1.00", "12.3", "1,000", "0.100", "1,230,000", "100", "-3.14"]
    assert [rounded(value) for value in values] == texts


def test_committed_pages_are_drawn_from_the_committed_results():
    for path, text in draw(ROOT).items():
        stale = f"{path.relative_to(ROOT)} is stale: run `python -m benchmarks.draw`"
        assert path.read_text(encoding="utf-8") == text, stale
