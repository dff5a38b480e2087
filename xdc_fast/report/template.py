"""Pages of templates in this folder; they need no other file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

HERE = Path(__file__).parent


def page_style() -> str:
    """The style sheet of all pages."""
    return (HERE / "page.css").read_text("utf-8")


def render(template: str, *filters: Callable, **content: object) -> str:
    """The page of a template, such as "sweep.html"; it may use the filters by their names."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {each.__name__: each for each in filters}
    return environment.get_template(template).render(style=Markup(page_style()), **content)
