"""The site that `make docs` builds with Sphinx: pages are Markdown, the API is its docstrings."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from click import Context
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from xdc_fast import __version__
from xdc_fast.recipe import GROUPS, Recipe, settings

project = "xdc_fast"
author = "the authors of xdc_fast"
release = __version__
html_theme = "furo"
html_title = "xdc_fast"
html_show_copyright = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
logging.getLogger("faiss.loader").setLevel(logging.WARNING)
default_role = "code"  # docstrings quote names as `name`
smartquotes = False  # it would turn --option into a dash
autodoc_member_order = "bysource"


class RecipeKeys(SphinxDirective):
    """A table of the settings of every group, from the metadata of the recipe's fields."""

    def run(self) -> list[nodes.Node]:
        tables = {
            group: [cls.__doc__.split("\n\n")[0], *HEAD]
            for group, cls in {"": Recipe, **GROUPS}.items()
        }
        for name, known in settings():
            default = list(known.default) if isinstance(known.default, tuple) else known.default
            cells = (name, default, allowed(known.metadata), known.metadata["text"])
            shown = f"| `{cells[0]}` | `{cells[1]!s}` | {cells[2]} | {cells[3]} |"
            tables[name.rpartition(".")[0]].append(shown.replace("| `` |", "| |"))
        text = "\n\n".join(
            f"## {group or 'The run'}\n\n{lines[0]}\n\n" + "\n".join(lines[1:])
            for group, lines in tables.items()
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)


HEAD = ("| key | default | allowed | meaning |", "|---|---|---|---|")


def allowed(limits: Mapping) -> str:
    """What a value may be, in words."""
    said = []
    if "length" in limits:
        said.append(f"{limits['length']} numbers")
    if "choices" in limits:
        said.append(", ".join(f"`{choice}`" for choice in limits["choices"]))
    if "least" in limits:
        said.append(f"{limits['least']} or more")
    if "above" in limits:
        said.append(f"above {limits['above']}")
    if "most" in limits:
        said.append(f"{limits['most']} or less")
    return ", ".join(said)


def leave_out(app: Sphinx, context: Context, lines: list[str]) -> None:
    """The usage line has the arguments, and the settings have a page of their own."""
    lines.clear()


def keep_colons(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Napoleon would take what stands before a colon for a type; ours stand in annotations."""
    if what in ("property", "attribute"):
        lines[:0] = ["..", ""]  # an empty comment
    lines[:] = [":returns:" if line == "Returns:" else line for line in lines]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.add_directive("recipe-keys", RecipeKeys)
    for part in ("epilog", "arguments"):
        app.connect(f"sphinx-click-process-{part}", leave_out)
