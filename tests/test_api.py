"""The public interface: what `import xdc_fast` gives, and the examples of its docstrings."""

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from sklearn.metrics import normalized_mutual_info_score

import xdc_fast
from tests.common.scripts import run_script
from xdc_fast.errors import UserError
from xdc_fast.recipe import Recipe

ROOT = Path(__file__).parents[1]


def test_importing_the_package_imports_nothing_heavy():
    names = run_script("import sys, xdc_fast; print(*sys.modules)").split()
    assert not {"torch", "numpy", "av", "numba", "faiss"} & {*names}


def test_every_public_name_is_there_and_says_what_it_is():
    assert {*xdc_fast.__all__} <= {*dir(xdc_fast)}
    for name in xdc_fast.__all__:
        assert getattr(xdc_fast, name).__doc__.strip()
    with pytest.raises(AttributeError, match=r"'xdc_fast' has no attribute 'lode'"):
        _ = xdc_fast.lode


def test_the_examples_run(toy_videos, tmp_path, monkeypatch):
    shutil.copytree(toy_videos, tmp_path / "videos")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    names = {"xdc_fast": xdc_fast, "np": np, "torch": torch}
    runner, finder = doctest.DocTestRunner(), doctest.DocTestFinder(recurse=False)
    order = ["pack", "pretrain"]  # the others read what these two write
    for name in order + [name for name in xdc_fast.__all__ if name not in order]:
        for test in finder.find(getattr(xdc_fast, name), name, globs=dict(names)):
            assert test.examples, f"{name} has no example"
            runner.run(test)
    assert not runner.summarize(verbose=False).failed


def test_pack_takes_one_path_or_several_and_says_what_is_wrong(toy_videos, tmp_path):
    one, two = toy_videos / "000000.mp4", str(toy_videos / "000001.mp4")
    summary = xdc_fast.pack([one, two], tmp_path / "two", workers=1, short_side=32, fps=10)
    assert (summary.packed, summary.refused, summary.already) == (2, 0, False)
    shards = xdc_fast.ShardSet(tmp_path / "two")
    assert (shards.settings["short_side"], shards.settings["fps"]) == (32, 10)
    assert xdc_fast.pack([one, two], str(tmp_path / "two"), short_side=32, fps=10).already
    for arguments, message in (
        ({"short_sid": 32}, "no setting 'short_sid'; did you mean 'short_side'?"),
        ({"short_side": 33}, "short_side=33: must be even"),
        ({"dataset": "ucf"}, "dataset ucf: not known; known are audioset"),
        ({"workers": 0}, "workers=0: must be 1 or more"),
        ({"codec": "copy", "max_seconds": 2.0}, "codec=copy packs whole videos"),
    ):
        with pytest.raises(UserError) as refused:
            xdc_fast.pack(one, tmp_path / "none", **arguments)
        assert message in str(refused.value)
    assert not (tmp_path / "none").exists()


def test_settings_are_texts_or_a_mapping(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("k: 7\n")
    for recipe, settings in (
        (file, ("device=tpu",)),
        (str(file), {"device": "tpu"}),
        (Recipe(k=7), "device=tpu"),
    ):
        with pytest.raises(UserError, match="device=tpu: must be one of auto, cpu, cuda"):
            xdc_fast.pretrain(recipe, settings)
    recipe = xdc_fast.load(
        "random", {"video": {"fps": 5}, "video.mean": (0, 0, 1)}, recipe=Recipe()
    )
    assert recipe.recipe.video.fps == 5.0 and recipe.recipe.video.mean == (0.0, 0.0, 1.0)


def test_kmeans_finds_the_groups_and_keeps_their_numbers():
    draw = np.random.default_rng(0)
    centres = 20 * draw.normal(size=(5, 6))
    truth = draw.integers(5, size=400)
    features = (centres[truth] + draw.normal(size=(400, 6))).astype(np.float32)
    found = xdc_fast.kmeans(features, 5, n_init=3)
    assert xdc_fast.nmi(found.assignment, truth) == pytest.approx(1)
    for number, centroid in enumerate(found.centroids):
        members = features[found.assignment == number]
        np.testing.assert_allclose(centroid, members.mean(axis=0), rtol=1e-3, atol=1e-3)
    again = xdc_fast.kmeans(features + 0.1, 5, previous=found.assignment)
    assert np.array_equal(again.assignment, found.assignment)
    for arguments, message in (
        ((features, 401), "k=401 clusters of 400 samples"),
        ((features, 0), "k=0: must be 1 or more"),
        ((features[0], 2), "one vector a row"),
    ):
        with pytest.raises(UserError, match=message):
            xdc_fast.kmeans(*arguments)
    with pytest.raises(UserError, match=r"previous of shape \(3,\)"):
        xdc_fast.kmeans(features, 5, previous=np.zeros(3, int))
    with pytest.raises(UserError, match="device=tpu: must be one of auto, cpu, cuda"):
        xdc_fast.kmeans(features, 5, device="tpu")


def test_log_mel_of_arrays_and_tensors_is_torchaudios():
    waveform = torch.randn(2, 3, 8000, generator=torch.Generator().manual_seed(0))
    spec = xdc_fast.MelSpec(n_mels=32, n_fft=512, win_length=400)
    reference = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=512, win_length=400, hop_length=160, n_mels=32, center=False
    )
    wanted = (reference(waveform) + 1e-6).log()
    tensor, array = (xdc_fast.log_mel(x, spec) for x in (waveform, waveform.numpy()))
    assert isinstance(tensor, torch.Tensor) and isinstance(array, np.ndarray)
    assert tensor.shape == wanted.shape and np.array_equal(tensor.numpy(), array)
    torch.testing.assert_close(tensor, wanted, rtol=1e-3, atol=1e-3)
    for wrong in (np.zeros(100, np.float32), np.zeros((2, 16000))):
        with pytest.raises(ValueError, match="waveform"):
            xdc_fast.log_mel(wrong)


@pytest.mark.gpu
def test_log_mel_of_a_cuda_tensor_stays_there():
    waveform = torch.randn(2, 3, 8000)
    found = xdc_fast.log_mel(waveform.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), xdc_fast.log_mel(waveform), rtol=1e-3, atol=1e-3)


def test_nmi_is_scikit_learns():
    draw = np.random.default_rng(0)
    a, b = draw.integers(-1, 6, size=(2, 500))
    b = 1000 * b + (b == -1) * 999  # numbers of clusters may be any
    known = (a >= 0) & (b >= 0)
    assert xdc_fast.nmi(a, b) == pytest.approx(normalized_mutual_info_score(a[known], b[known]))
    with pytest.raises(ValueError, match="give"):
        xdc_fast.nmi([1, 2], [1, 2, 3])


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "xdc_fast"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == f"xdc, version {xdc_fast.__version__}"
    doctor = subprocess.run([*command, "doctor", "--json"], capture_output=True, check=True)
    assert json.loads(doctor.stdout).keys() == {"versions", "machine", "stages"}
    wrong = subprocess.run(
        [*command, "report", "none"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("xdc: none: no recipe.yaml there")
