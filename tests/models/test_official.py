"""The released XDC checkpoints: their names and shapes, their checksum, their forward pass.

The state dict is made by the rule of the released architecture alone, and the reference forward
pass uses nothing but torch.nn.functional and those names.
"""

import hashlib

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

import xdc_fast
from xdc_fast.encoders.r2plus1d import r2plus1d_18
from xdc_fast.encoders.weights import compare
from xdc_fast.errors import UserError
from xdc_fast.models.official import load_official
from xdc_fast.recipe import load_recipe
from xdc_fast.tools import Group
from xdc_fast.tools.evaluate import finetune

WIDTHS = (64, 128, 256, 512)
CPU = ("device=cpu",)


def convolution(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Conv2Plus1D: its own middle width, the parameters of a 3 x 3 x 3 convolution."""
    middle = (inputs * outputs * 3 * 3 * 3) // (inputs * 3 * 3 + 3 * outputs)
    return {
        f"{name}.0.weight": (middle, inputs, 1, 3, 3),
        **norm(f"{name}.1", middle),
        f"{name}.3.weight": (outputs, middle, 3, 1, 1),
    }


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (width,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def released() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released files: two blocks in each of four layers, no fc."""
    shapes = {
        "stem.0.weight": (45, 3, 1, 7, 7), **norm("stem.1", 45),
        "stem.3.weight": (64, 45, 3, 1, 1), **norm("stem.4", 64),
    }  # fmt: skip
    inputs = 64
    for layer, width in enumerate(WIDTHS, 1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes |= convolution(f"{name}.conv1.0", inputs, width) | norm(f"{name}.conv1.1", width)
            shapes |= convolution(f"{name}.conv2.0", width, width) | norm(f"{name}.conv2.1", width)
            if inputs != width:
                shapes[f"{name}.downsample.0.weight"] = (width, inputs, 1, 1, 1)
                shapes |= norm(f"{name}.downsample.1", width)
            inputs = width
    return shapes


def weights() -> dict[str, torch.Tensor]:
    """Random ones that keep the signal's size through the layers."""
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in released().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) == 5:
            fan = shape[1] * shape[2] * shape[3] * shape[4]
            state[name] = torch.randn(shape, generator=draw) * (2 / fan) ** 0.5
        elif name.endswith(("running_var", "weight")):
            state[name] = 0.5 + torch.rand(shape, generator=draw)
        else:
            state[name] = 0.2 * torch.randn(shape, generator=draw)
    return state


def reference(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """R(2+1)D-18 of (B, 3, T, H, W) by the released names: features (B, 512)."""

    def bn(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)

    def conv(x, name, stride=(1, 1, 1)):
        kernel = state[f"{name}.weight"]
        return F.conv3d(x, kernel, stride=stride, padding=[side // 2 for side in kernel.shape[2:]])

    def conv2plus1d(x, name, stride):
        x = F.relu(bn(conv(x, f"{name}.0", (1, stride, stride)), f"{name}.1"))
        return conv(x, f"{name}.3", (stride, 1, 1))

    x = F.relu(bn(conv(x, "stem.0", (1, 2, 2)), "stem.1"))
    x = F.relu(bn(conv(x, "stem.3"), "stem.4"))
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(bn(conv2plus1d(x, f"{name}.conv1.0", stride), f"{name}.conv1.1"))
            y = bn(conv2plus1d(y, f"{name}.conv2.0", 1), f"{name}.conv2.1")
            if f"{name}.downsample.0.weight" in state:
                x = bn(conv(x, f"{name}.downsample.0", (stride,) * 3), f"{name}.downsample.1")
            x = F.relu(x + y)
    return x.mean((2, 3, 4))


def save(state, folder, name="r2plus1d_18_xdc_ig65m_kinetics", **options):
    """A checkpoint under its name with the first 8 digits of its SHA-256."""
    draft = folder / "draft"
    torch.save(state, draft, **options)
    digits = hashlib.sha256(draft.read_bytes()).hexdigest()[:8]
    return draft.rename(folder / f"{name}-{digits}.pth")


@pytest.fixture(scope="module")
def state():
    return weights()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    # as PyTorch 1.4 wrote them
    folder = tmp_path_factory.mktemp("official")
    return save(state, folder, _use_new_zipfile_serialization=False)


def test_the_rule_gives_the_papers_encoder_to_the_parameter():
    learned = [s for n, s in released().items() if n.endswith(("weight", "bias"))]
    assert sum(torch.Size(shape).numel() for shape in learned) == 33_165_639
    middle = {n: released()[f"layer{n}.0.conv2.0.0.weight"][0] for n in (2, 3, 4)}
    assert middle == {2: 288, 3: 576, 4: 1152}


def test_the_features_are_those_of_a_plain_forward_pass(file, state):
    model = xdc_fast.load(file, CPU)
    assert model.name == str(file) and list(model.encoders) == ["video"]
    assert model.heads == {} and model.run is None
    clips = torch.randn(2, 3, 8, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, found = reference(state, clips), model.encoders["video"](clips)
    assert found.shape == (2, 512)
    assert wanted.std() > 0.05 and (wanted[0] - wanted[1]).abs().max() > 0.1
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_the_normalisation_comes_along(file):
    model = xdc_fast.load(file, (*CPU, "video.crop=64"))
    video = model.recipe.video
    assert video.mean == (0.43216, 0.394666, 0.37645)
    assert video.std == (0.22803, 0.22145, 0.216989)
    assert (video.frames, video.crop, model.inputs.shape.crop) == (8, 64, 64)
    # the same constants in the group's VMZ code, on [0, 255] and rounded otherwise
    assert [255 * m for m in video.mean] == pytest.approx([110.201, 100.64, 95.9966], abs=3e-3)
    assert [255 * s for s in video.std] == pytest.approx([58.1489, 56.4701, 55.3324], abs=3e-3)


def test_every_key_matches_and_a_line_says_so(file, toy_shards):
    keys = xdc_fast.load(file, (*CPU, "video.crop=32")).keys
    assert set(keys.matched) == set(released()) and len(keys.matched) == len(released())
    assert (keys.missing, keys.unexpected, keys.reshaped) == ([], [], {})
    group = Group(name="xdc", commands={"finetune": finetune})
    arguments = ("--data", toy_shards.root, "--label", "clas", "video.crop=32", "device=cpu")
    told = CliRunner().invoke(group, ["finetune", str(file), *map(str, arguments)]).stderr
    assert f"{len(released())} keys match, 0 missing, 0 unexpected" in told


def test_keys_that_do_not_matter_may_differ(state, tmp_path):
    """A last layer, as in other files of the group; no counters, as after a conversion."""
    other = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    other |= {"fc.weight": torch.zeros(400, 512), "fc.bias": torch.zeros(400)}
    encoder = r2plus1d_18()
    keys = load_official(save(other, tmp_path), encoder)
    assert sorted(keys.unexpected) == ["fc.bias", "fc.weight"]
    assert set(keys.missing) == state.keys() - other.keys()
    own = encoder.state_dict()
    assert all(torch.equal(own[n], state[n]) for n in keys.matched) and len(keys.matched) > 90


def test_keys_that_matter_are_refused(state, tmp_path):
    small = {n: t for n, t in state.items() if t.numel() < 10_000}
    assert "no layer1.0.conv1.0.0.weight" in compare(r2plus1d_18(), small).fault()
    stock = dict(state)  # torchvision's middle width of the block that widens
    stock["layer2.0.conv2.0.0.weight"] = stock["layer2.0.conv2.0.0.weight"][:230]
    with pytest.raises(
        UserError,
        match=r"another architecture than r2plus1d_18: layer2.0.conv2.0."
        r"0.weight is \(230, 128, 1, 3, 3\), not \(288, 128, 1, 3, 3\); take one",
    ):
        load_official(save(stock, tmp_path), r2plus1d_18())  # fmt: skip
    with pytest.raises(UserError, match=r"unknown layer5.0.weight"):
        load_official(save({**state, "layer5.0.weight": torch.ones(1)}, tmp_path), r2plus1d_18())
    with pytest.raises(UserError, match=r"holds no weights by name"):
        load_official(save([1, 2], tmp_path), r2plus1d_18())


def test_a_damaged_or_renamed_file_is_refused(tmp_path):
    sound = save({"stem.0.weight": torch.zeros(3)}, tmp_path)
    data = bytearray(sound.read_bytes())
    data[-1] ^= 1
    sound.write_bytes(data)
    found = hashlib.sha256(data).hexdigest()[:8]
    match = f"a damaged download, its SHA-256 begins with {found} and not with {sound.stem[-8:]}"
    with pytest.raises(UserError, match=match):
        xdc_fast.load(sound, CPU)
    with pytest.raises(UserError, match=r"xdc.pth: its name does not end in an 8-digit checksum"):
        xdc_fast.load(sound.rename(tmp_path / "xdc.pth"), CPU)
    with pytest.raises(UserError, match=r"none-00000000.pth: No such file"):
        xdc_fast.load(tmp_path / "none-00000000.pth", CPU)
    text = tmp_path / f"text-{hashlib.sha256(b'text').hexdigest()[:8]}.pth"
    text.write_bytes(b"text")
    with pytest.raises(UserError, match=r"cannot be read \(\w+\); download it again"):
        xdc_fast.load(text, CPU)


def test_another_encoder_cannot_be_asked_for(file):
    tiny = ("video.encoder=r2plus1d_tiny",)
    for recipe, settings in ((None, tiny), (load_recipe(None, tiny), ())):
        with pytest.raises(UserError, match=r"video.encoder=r2plus1d_tiny: .* r2plus1d_18; leave"):
            xdc_fast.load(file, settings, recipe=recipe)
