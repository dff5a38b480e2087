"""A whole run, shared by the tests of this folder."""

import pytest

from tests.common.pretraining import recipe
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run


@pytest.fixture(scope="session")
def finished(toy_shards, tmp_path_factory):
    """A whole run, and its summary."""
    out = tmp_path_factory.mktemp("run") / "xdc"
    summary = pretrain(recipe(toy_shards, out))
    return Run.open(out), summary
