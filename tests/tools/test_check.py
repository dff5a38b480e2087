"""`xdc doctor --check`: everything agrees here, and what does not is found."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from xdc_fast.tools import check
from xdc_fast.tools.xdc import main


def test_every_path_of_this_machine_agrees():
    result = CliRunner().invoke(main, ["doctor", "--check", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert all(line["holds"] for line in found)
    names = " ".join(line["name"] for line in found)
    for path in ("log-mel", "label counts", "k-means", "host loader", "DALI loader", "r2plus1d_18"):
        assert path in names


def test_a_path_that_computes_otherwise_or_fails_is_told(monkeypatch):
    def attempts():
        yield check.attempt("right", "by hand", "absolute", 0.1, lambda: 0.05)
        yield check.attempt("wrong", "by hand", "absolute", 0.1, lambda: 0.2)
        yield check.attempt("broken", "by hand", "absolute", 0.1, lambda: 1 / 0)

    monkeypatch.setattr(check, "check_machine", attempts)
    result = CliRunner().invoke(main, ["doctor", "--check"])
    assert result.exit_code == 1
    right, wrong, broken = result.stdout.splitlines()
    assert right.startswith("ok ") and wrong.startswith("DIFFERS")
    assert broken.startswith("FAILED") and "ZeroDivisionError" in broken
    lines = json.loads(CliRunner().invoke(main, ["doctor", "--check", "--json"]).stdout)
    assert [line["holds"] for line in lines] == [True, False, False]
    assert lines[2]["difference"] is None


def test_a_wrong_kernel_is_seen(monkeypatch):
    """Each comparison is with a reference of its own, not with the kernel itself."""
    real = check.log_mel
    monkeypatch.setattr(check, "log_mel", lambda *a, **k: real(*a, **k) + np.float32(0.01))
    import torch

    cpu = torch.device("cpu")
    assert check.compare_log_mel(cpu, np.int16) == pytest.approx(math.exp(0.01) - 1, rel=0.05)
    monkeypatch.setattr(check, "contingency", lambda a, b, *_, **__: np.ones((64, 50), np.int64))
    assert check.compare_labels(cpu) > 1000 and check.compare_nmi() > 0.1
