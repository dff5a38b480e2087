"""`make faults` in small: every kind of fault is tried, and the program holds."""

import json

import pytest
from click.testing import CliRunner

from tests.faults import processes
from tests.faults.__main__ import KINDS, attempt, main
from tests.faults.trials import Outcome, fault
from tests.faults.world import build

OF_PROCESSES = [name for name, (kind, _) in KINDS.items() if kind.__module__ == processes.__name__]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("faults") / "world")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in OF_PROCESSES else []) for n in KINDS],
)
def test_a_kind_of_fault_holds(name, world):
    trials = attempt(name, world, seed=1, count=1)
    assert trials
    assert not [trial for trial in trials if trial.reason]


@pytest.mark.parametrize(
    ("outcome", "named", "reason"),
    [
        (Outcome(2, "", "xdc: a.mp4: wrong; mend it\n"), "a.mp4", ""),
        (Outcome(2, "", "xdc: wrong; mend it\n"), "a.mp4", "does not name a.mp4"),
        (Outcome(2, "", ""), "", "0 lines tell"),
        (Outcome(1, "", "Traceback (most recent call last):\nKeyError: 3\n"), "", "KeyError: 3"),
        (Outcome(0, "", ""), "", "status 0"),
        (Outcome(None, "", ""), "", "takes more than"),
    ],
)
def test_an_outcome_is_judged(outcome, named, reason):
    found = fault(outcome, 2, named=named)
    assert reason in found if reason else not found


def test_the_figures_tell_what_failed(monkeypatch, tmp_path):
    """A fault that is found makes the status 1, and is in the table."""
    from tests.faults import __main__ as faults

    def broken(world, draw, count):
        yield faults.Trial("this", "")
        yield faults.Trial("that", "it broke")
        raise KeyError("and then")

    monkeypatch.setattr(faults, "build", lambda root: None)
    monkeypatch.setattr(faults, "KINDS", {"hostile tars": (broken, 1)})
    result = CliRunner().invoke(main, ["--json", str(tmp_path / "f.json")])
    assert result.exit_code == 1 and "that: it broke" in result.output
    (kind,) = json.loads((tmp_path / "f.json").read_text())["kinds"]
    assert (kind["tried"], kind["held"], kind["failed"]) == (3, 1, 2)
