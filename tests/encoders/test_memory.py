"""The estimate of a batch's memory against what PyTorch keeps, and its refusal."""

import pytest
import torch

from xdc_fast.encoders import memory
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.memory import batch_bytes, check_memory, memory_of
from xdc_fast.errors import UserError
from xdc_fast.recipe import load_recipe

CPU = torch.device("cpu")
BOTH = ("video", "audio")


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_step_keeps_at_least_the_estimate_and_not_much_more(size):
    settings = (f"video.encoder=r2plus1d_{size}", f"audio.encoder=audio_{size}", "video.crop=48")
    recipe = load_recipe(None, settings)
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    clips = {"video": torch.randn(3, 3, 8, 48, 48), "audio": torch.randn(3, 1, 40, 100)}
    encoders = build_encoders(recipe)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = [encoder.train()(clips[name]) for name, encoder in encoders.items()]
    weights = {p.data_ptr() for e in encoders.values() for p in e.parameters()}
    actual = sum(size for place, size in kept.items() if place not in weights)
    estimate = batch_bytes(recipe, BOTH, 3, training=True)
    assert features and estimate < actual < 6 * estimate
    assert batch_bytes(recipe, BOTH, 3, training=False) < estimate
    assert batch_bytes(recipe, BOTH, 6, training=True) == 2 * estimate


def test_a_batch_that_cannot_fit_is_refused_with_the_way_out():
    largest = load_recipe(
        None,
        ("video.frames=10000", "video.crop=4096", "audio.frames=100000", "audio.hop_length=65536",
         "audio.n_mels=1024", "train.batch=100000"),
    )  # fmt: skip
    for recipe in (largest, load_recipe(None, ("video.frames=10000",))):
        with pytest.raises(UserError, match=r"GB of memory at the least, and cpu has .*; lower"):
            check_memory(recipe, BOTH, CPU, training=True)
    check_memory(load_recipe(None, ("train.batch=1",)), BOTH, CPU, training=True)


def test_the_memory_is_what_the_process_may_use(tmp_path, monkeypatch):
    whole = memory_of(CPU)
    assert 1e8 < whole < 1e15
    for text, expected in (("max\n", whole), (f"{whole // 2}\n", whole // 2)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(memory, "LIMITS", (str(tmp_path / "limit"),))
        assert memory_of(CPU) == expected
