"""Rates: assumed ones come from the benchmarks that they name, files replace them."""

import json

import pytest

from tests.docs.pages import ROOT
from xdc_fast.errors import UserError
from xdc_fast.planner.rates import assumed_rates, check_saving, read_rates, save_rates
from xdc_fast.recipe import Train

TRAIN = Train(precision="bfloat16")


def result(machine, stage, case, threads=1):
    """A record of benchmarks/results."""
    records = json.loads((ROOT / f"benchmarks/results/{machine}/{stage}.json").read_text())
    (found,) = [r for r in records if r["case"].startswith(case) and r["threads"] == threads]
    return found


def test_assumed_rates_are_what_the_benchmarks_measured():
    rates = {name: rate.value for name, rate in assumed_rates(TRAIN).items()}
    second, seconds = 160 * 128 * 15, 3  # pixels of a second of GRID, and how long its videos are
    size = result("amd-epyc-2-cores", "codecs", "size")
    assert rates["jpeg_bytes"] == pytest.approx(1e6 / size["ours"] / second, rel=1e-3)
    assert rates["h264_bytes"] == pytest.approx(1e6 / size["peers"]["h264"] / second, rel=1e-3)
    pack = result("amd-epyc-2-cores", "pack", "120 videos")["ours"]
    assert rates["jpeg_pack"] == pytest.approx(pack * seconds * second, rel=1e-3)
    h264 = result("amd-epyc-2-cores", "codecs", "conversion")["peers"]["h264"]
    assert rates["h264_pack"] == pytest.approx(h264 * seconds * second, rel=1e-3)
    feed = result("nvidia-h200", "feed", "GRID", 16)["ours"]
    assert rates["feed"] == pytest.approx(feed * 8 * 160 * 128, rel=1e-3)
    for precision in ("float32", "bfloat16"):
        case = f"r2plus1d_18 and audio_resnet18, 8 x 112 x 112, batches of 64, {precision}, as"
        teraflops = result("nvidia-h200", "step", case, 16)["ours"]
        assumed = assumed_rates(Train(precision=precision))["step"]
        assert assumed.value == pytest.approx(teraflops * 1e12, rel=1e-3)
        assert precision in assumed.source and "H200" in assumed.source


def test_nothing_is_measured_unless_a_file_says_so():
    assert {rate.kind for rate in read_rates((), TRAIN).values()} == {"assumed"}
    assert all(rate.source for rate in read_rates((), TRAIN).values())


def test_files_replace_rates_and_the_last_counts(tmp_path):
    measured, written = tmp_path / "measured.json", tmp_path / "written.yaml"
    save_rates(measured, "xdc bench on a machine", {"step": 2e12, "feed": 3e8})
    written.write_text("about: a data sheet\nfeed: 5e8\nnetwork: 1e10\n")
    rates = read_rates((measured, written), TRAIN)
    assert (rates["step"].value, rates["step"].kind) == (2e12, "measured")
    assert rates["step"].source == f"{measured}: xdc bench on a machine"
    assert (rates["feed"].value, rates["feed"].kind) == (5e8, "file")
    assert rates["network"].source == f"{written}: a data sheet"
    assert rates["encode"] == assumed_rates(TRAIN)["encode"]
    assert read_rates((written, measured), TRAIN)["feed"].value == 3e8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepp: 1", "no 'stepp'; did you mean 'step'?"),
        ("step: fast", "step: 'fast' is not a number above 0"),
        ("step: -1", "step: '-1' is not a number above 0"),
        ("step: 0", "step: '0' is not a number above 0"),
        ("step: .inf", "step: '.inf' is not a number above 0"),
        ("step: [1]", r"step: \"\['1'\]\" is not a number above 0"),
        ("- 1", "a rates file is"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "rates.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=f"^{file}: .*{message}") as caught:
        read_rates((file,), TRAIN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", '{"about": "", "rates": 1}', "[", '{"rates": {}}'])
def test_a_wrong_saved_file_is_refused(tmp_path, text):
    file = tmp_path / "rates.json"
    file.write_text(text)
    with pytest.raises(UserError, match=f"^{file}: "):
        read_rates((file,), TRAIN)


def test_rates_are_saved_as_json_in_a_folder_that_can_be_written(tmp_path):
    with pytest.raises(UserError, match=r"rates\.yaml: .*\.json"):
        check_saving(tmp_path / "rates.yaml")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match="a folder"):
        check_saving(tmp_path / "a.json")
    check_saving(tmp_path / "new/rates.json")
    save_rates(tmp_path / "new/rates.json", "here", {"step": 1.0})
    assert read_rates((tmp_path / "new/rates.json",), TRAIN)["step"].value == 1
