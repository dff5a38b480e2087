"""docs/structure.svg is true: the rooms are the folders, and imports point down."""

import ast
from xml.etree import ElementTree

from tests.docs.pages import ROOT

SVG = "{http://www.w3.org/2000/svg}"
PICTURE = ElementTree.parse(ROOT / "docs/structure.svg")
FOLDERS = {"xdc_fast": "xdc_fast", "kernels": "xdc_fast.kernels", "tools": "xdc_fast.tools"}


def boxes(kind):
    """{name: (group, its rectangle)} of the rooms or of what lies on disk."""
    groups = [g for g in PICTURE.iter(f"{SVG}g") if g.get("class") == kind]
    return {group.get("id"): (group, group.find(f"{SVG}rect")) for group in groups}


def rooms():
    """{what code is called: its room}: a folder, a single file, or the package itself."""
    names = {}
    for name, (group, _) in boxes("room").items():
        names.update(dict.fromkeys((group.get("data-modules") or name).split(), name))
    return names


def modules():
    """(module name, syntax tree) of everything that is installed."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), ast.parse(path.read_text())


def imported(tree):
    """The names under xdc_fast that a module imports, at its top or within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1  # of its own folder
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports():
    """(room, room that it imports, module) for every import between rooms."""
    known = rooms()
    for module, tree in modules():
        here = known[module.split(".")[1] if "." in module else "xdc_fast"]
        for name in imported(tree):
            parts = name.split(".")
            if parts[0] != "xdc_fast":
                continue
            there = known.get(parts[1] if len(parts) > 1 else "", "xdc_fast")
            if there != here:
                yield here, there, module


def test_every_folder_and_file_has_a_room():
    found = {m.split(".")[1] if "." in m else "xdc_fast" for m, _ in modules()}
    assert found == rooms().keys()


def test_imports_point_down():
    place = {name: float(rect.get("y")) for name, (_, rect) in boxes("room").items()}
    upward = [(a, b, module) for a, b, module in imports() if place[b] <= place[a]]
    assert upward == []


def test_arrows_between_rooms_are_imports():
    known, disk = boxes("room"), boxes("disk")
    pairs = {(a, b) for a, b, _ in imports()}
    flows = [(p.get("data-from"), p.get("data-to")) for p in PICTURE.iter(f"{SVG}path")
             if p.get("class") == "flow"]  # fmt: skip
    assert len(flows) > 9
    for a, b in flows:
        assert {a, b} <= known.keys() | disk.keys()
        if {a, b} <= known.keys():
            assert (a, b) in pairs or (b, a) in pairs


def test_the_page_names_every_room():
    text = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    for name in rooms().keys() - {"xdc_fast"}:
        assert f"`{name}/`" in text or f"`{name}.py`" in text, name
