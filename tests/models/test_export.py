"""Weights out and back in: safetensors, ONNX, the command, torch.hub."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.numpy import load_file

import xdc_fast
from tests.common.runs import make_trained_run
from xdc_fast.encoders.audio_resnet import AudioResNet
from xdc_fast.errors import UserError
from xdc_fast.models import export as exporting
from xdc_fast.models.export import write_export
from xdc_fast.tools import Group
from xdc_fast.tools.export import export

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(toy_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    return make_trained_run(folder, f"data={toy_shards.root}", "video.mean=[0.5, 0.5, 0.5]")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run's export with ONNX files, and what was written."""
    out = tmp_path_factory.mktemp("exported") / "out"
    return out, write_export(out, xdc_fast.load(run.root), onnx=True)


def inputs(modality: str, batch: int) -> torch.Tensor:
    shape = {"video": (3, 8, 32, 32), "audio": (1, 40, 100)}[modality]
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def xdc(*arguments):
    group = Group("xdc", commands=[export])
    return CliRunner().invoke(group, ["export", *(str(a) for a in arguments)])


def test_the_files_hold_the_runs_very_weights(run, exported):
    out, sizes = exported
    assert sizes == {path.name: path.stat().st_size for path in out.iterdir()}
    weights, heads = run.encoder_weights(), torch.load(run.root / "heads.pt")
    for modality, state in weights.items():
        file = load_file(out / f"{modality}.safetensors")
        assert file.keys() == state.keys()
        assert all(np.array_equal(file[name], tensor.numpy()) for name, tensor in state.items())
    file = load_file(out / "heads.safetensors")
    assert file.keys() == {f"{name}.{part}" for name, head in heads.items() for part in head}
    for name, head in heads.items():
        assert np.array_equal(file[f"{name}.weight"], head["weight"].numpy())


def test_an_export_loads_back_to_the_same_model(run, exported, toy_shards, toy_videos):
    one, two = xdc_fast.load(run.root), xdc_fast.load(exported[0])
    assert (two.name, two.run) == (str(exported[0]), None)
    assert two.recipe.video == one.recipe.video and two.recipe.audio == one.recipe.audio
    assert (two.recipe.data, two.recipe.out, two.recipe.device) == ("", "", "auto")
    assert two.packing == one.packing and two.packing.short_side == 40
    media = toy_videos / toy_shards.sources[3]
    found, wanted = two(media, clips=2), one(media, clips=2)
    for modality in ("video", "audio"):
        assert np.array_equal(found[modality], wanted[modality])
    for name, head in one.heads.items():
        assert torch.equal(two.heads[name].weight, head.weight)
        assert torch.equal(two.heads[name].bias, head.bias)
    changed = xdc_fast.load(exported[0], ("video.frames=4",))
    assert changed.inputs.shape.frames == 4
    with pytest.raises(UserError, match=r"weights of r2plus1d_tiny; leave it out"):
        xdc_fast.load(exported[0], ("video.encoder=r2plus1d_small",))


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_onnx_gives_the_encoders_features_at_any_batch(run, exported, modality):
    session = onnxruntime.InferenceSession(exported[0] / f"{modality}.onnx")
    encoder = xdc_fast.load(run.root).encoders[modality]
    for batch in (1, 2, 5):
        clips = inputs(modality, batch)
        with torch.no_grad():
            wanted = encoder(clips).numpy()
        (found,) = session.run(["features"], {"clips": clips.numpy()})
        assert found.shape == (batch, 48) and found.dtype == np.float32
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_onnx_of_a_maximum_pooled_encoder_and_of_one_that_is_off(tmp_path, monkeypatch):
    """As audio_resnet18 ends, in a pooling that torch.onnx does not translate."""
    torch.manual_seed(0)
    encoder = AudioResNet((4, 2), ((8, 1, 2),), torch.nn.AdaptiveMaxPool2d).eval()
    file = tmp_path / "audio.onnx"
    exporting.write_onnx(file, encoder, (1, 40, 100))
    clips = inputs("audio", 2)
    (found,) = onnxruntime.InferenceSession(file).run(None, {"clips": clips.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, encoder(clips).numpy(), atol=1e-5)
    file.unlink()
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(
        UserError, match=r"audio.onnx: not written: the features of onnxruntime differ"
    ):
        exporting.write_onnx(file, encoder, (1, 40, 100))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_an_export_over_an_earlier_one_alone(run, tmp_path):
    out = tmp_path / "out"
    shown = xdc(run.root, out)
    assert shown.exit_code == 0, shown.output
    assert "video encoder, 48 features; audio encoder, 48 features; head" in shown.stdout
    (out / "video.onnx").write_bytes(b"of an earlier export")
    result = json.loads(xdc(run.root, out, "video.frames=16", "--json").stdout)
    assert result["features"] == {"video": 48, "audio": 48}
    assert result["heads"] == {"audio_from_video": 4, "video_from_audio": 4}
    names = {"config.yaml", "video.safetensors", "audio.safetensors", "heads.safetensors"}
    assert set(result["files"]) == {path.name for path in out.iterdir()} == names
    assert yaml.safe_load((out / "config.yaml").read_text())["recipe"]["video"]["frames"] == 16
    kept = (out / "video.safetensors").read_bytes()
    again = xdc(out, out)  # onto itself
    assert again.exit_code == 0 and (out / "video.safetensors").read_bytes() == kept
    (out / "notes.txt").write_text("mine")
    for where in (out, run.root):
        refused = xdc(run.root, where)
        assert refused.exit_code == 2
        assert f"{where}: not empty, and not an earlier export; give another" in refused.stderr
    assert (out / "notes.txt").read_text() == "mine"
    assert "random: there is nothing to export" in xdc("random", tmp_path / "r").stderr
    assert "is a file; give another folder" in xdc(run.root, out / "notes.txt").stderr


def test_a_damaged_export_is_refused(exported, tmp_path):
    def change(name, content):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(exported[0], tmp_path / "copy")
        (tmp_path / "copy" / name).write_bytes(content)
        return tmp_path / "copy"

    config = (exported[0] / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"config.yaml: format 2, this version reads 1"):
        xdc_fast.load(change("config.yaml", config.replace(b"format: 1", b"format: 2")))
    for content in (b"", b"format: 1", b"a: ["):
        with pytest.raises(UserError, match=r"config.yaml: not the config of an export"):
            xdc_fast.load(change("config.yaml", content))
    weights = (exported[0] / "audio.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"audio.safetensors: cannot be read"):
        xdc_fast.load(change("audio.safetensors", weights[:-9]))
    folder = change("config.yaml", config.replace(b"audio_tiny", b"audio_small"))
    with pytest.raises(UserError, match=r"another architecture than audio_small: stem.0.weight"):
        xdc_fast.load(folder)


def test_torch_hub_finds_the_encoders_in_a_checkout(run, tmp_path):
    """In a process that does not know of an installed xdc_fast."""
    script = f"""
import sys, torch
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
hub = lambda name, **more: torch.hub.load({str(ROOT)!r}, name, source="local", **more)
state = {{m: hub(f"xdc_{{m}}_encoder", weights={str(run.root)!r}).state_dict()
         for m in ("video", "audio")}}
torch.save(state, {str(tmp_path / "found.pt")!r})
encoder = hub("xdc_audio_encoder", settings=("audio.encoder=audio_tiny",))
assert encoder(torch.zeros(2, 1, 40, 100)).shape == (2, 48) and not encoder.training
assert {str(ROOT)!r} in sys.modules["xdc_fast"].__file__
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found, wanted = torch.load(tmp_path / "found.pt"), run.encoder_weights()
    for modality, state in wanted.items():
        assert all(torch.equal(found[modality][name], tensor) for name, tensor in state.items())
