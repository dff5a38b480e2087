"""Encoders: shapes and names that released weights and users count on."""

import pytest
import torch

from tests.common.scripts import run_script
from xdc_fast.encoders.audio_resnet import audio_resnet18
from xdc_fast.encoders.build import ENCODERS, build_encoders, new_head
from xdc_fast.encoders.r2plus1d import r2plus1d_18
from xdc_fast.errors import UserError
from xdc_fast.recipe import load_recipe


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_r2plus1d_18_has_the_released_weights_shape():
    encoder = r2plus1d_18()
    assert parameters(encoder) + 512 * 400 + 400 == 33_370_839
    shapes = {name: tuple(p.shape) for name, p in encoder.named_parameters()}
    # the second convolution of a block that widens: where torchvision's differs
    assert shapes["layer2.0.conv2.0.0.weight"] == (288, 128, 1, 3, 3)
    assert shapes["layer3.0.conv2.0.0.weight"] == (576, 256, 1, 3, 3)
    assert shapes["layer4.0.conv2.0.0.weight"] == (1152, 512, 1, 3, 3)
    assert shapes["stem.0.weight"] == (45, 3, 1, 7, 7)
    assert shapes["stem.3.weight"] == (64, 45, 3, 1, 1)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1, 1)


def test_audio_resnet18_reduces_the_papers_input_as_vmz_does():
    encoder = audio_resnet18().eval()
    assert parameters(encoder) == 11_202_544
    with torch.no_grad():
        assert encoder.layers(encoder.stem(torch.zeros(1, 1, 40, 100))).shape == (1, 512, 2, 4)


@pytest.mark.parametrize("name", ENCODERS["video"])
def test_video_encoders_pool_any_clip_to_their_features(name):
    encoder = ENCODERS["video"][name]().eval()
    with torch.no_grad():
        for shape in ((8, 32, 32), (4, 40, 48)):
            assert encoder(torch.randn(2, 3, *shape)).shape == (2, encoder.features)


@pytest.mark.parametrize("name", ENCODERS["audio"])
def test_audio_encoders_pool_any_spectrogram_to_their_features(name):
    encoder = ENCODERS["audio"][name]().eval()
    with torch.no_grad():
        for shape in ((40, 100), (64, 130)):
            assert encoder(torch.randn(2, 1, *shape)).shape == (2, encoder.features)


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    tiny = ("video.encoder=r2plus1d_tiny", "audio.encoder=audio_tiny")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (
        build_encoders(load_recipe(None, (*tiny, f"seed={seed}"))) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for modality in ("video", "audio"):
        a, b, c = (torch.cat([p.flatten() for p in e[modality].parameters()])
                   for e in (one, same, other))  # fmt: skip
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_heads_are_drawn_as_deepcluster_draws_them():
    head = new_head(512, 1000, seed=5)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not head.bias.any()
    assert torch.equal(head.weight, new_head(512, 1000, seed=5).weight)


def test_an_unknown_encoder_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"video.encoder=resnet: known are r2plus1d_18"):
        build_encoders(load_recipe(None, ("video.encoder=resnet",)))


@pytest.mark.parametrize("batch", [3, pytest.param(11, marks=pytest.mark.slow)])
def test_gradients_of_odd_batches_are_those_of_float64(batch):
    # in a process of its own: channels-last, the smallest audio encoder dies here
    run_script(f"""
import copy, torch
from xdc_fast.encoders.build import build_encoders
from xdc_fast.recipe import load_recipe
tiny = ("video.encoder=r2plus1d_tiny", "audio.encoder=audio_tiny")
for modality, encoder in build_encoders(load_recipe(None, tiny)).items():
    shape = (3, 8, 32, 32) if modality == "video" else (1, 40, 100)
    x = torch.randn({batch}, *shape, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(encoder).double()
    for _ in range(3):
        encoder.zero_grad()
        encoder(x).square().mean().backward()
    exact(x.double()).square().mean().backward()
    for ours, other in zip(encoder.parameters(), exact.parameters(), strict=True):
        assert (ours.grad - other.grad).norm() <= 1e-2 * other.grad.norm() + 1e-6, modality
""")
