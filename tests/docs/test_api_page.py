"""docs/api.md documents every public name, under its public name."""

import re

import xdc_fast
from tests.docs.pages import ROOT


def test_every_public_name_is_on_the_page():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto\w+:: (\w+)$", text, re.MULTILINE)
    assert sorted(named) == xdc_fast.__all__
