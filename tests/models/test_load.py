"""Loading encoders: from every place they come from, onto media files, and what is refused."""

import pytest
import torch
from torch import nn

import xdc_fast
from tests.common.runs import TINY, make_trained_run
from xdc_fast.encoders.build import build_encoders
from xdc_fast.errors import UserError
from xdc_fast.pretraining.checkpoint import State
from xdc_fast.recipe import Recipe, load_recipe


@pytest.fixture(scope="module")
def run(toy_shards, tmp_path_factory):
    return make_trained_run(tmp_path_factory.mktemp("model") / "run", f"data={toy_shards.root}")


def has_weights(model, weights) -> bool:
    return all(
        torch.equal(tensor, weights[modality][name])
        for modality, encoder in model.encoders.items()
        for name, tensor in encoder.state_dict().items()
    )


def test_a_run_its_files_and_its_heads(run):
    for where in (run.root, str(run.root / "encoders.pt")):
        model = xdc_fast.load(where)
        assert model.name == str(where) and model.recipe == run.recipe
        assert model.run.root == run.root
        assert has_weights(model, run.encoder_weights())
        assert not any(encoder.training for encoder in model.encoders.values())
        assert model.inputs.shape.crop == 32
    heads = torch.load(run.root / "heads.pt")
    assert set(model.heads) == set(heads)
    features = torch.randn(3, 48)
    for name, state in heads.items():
        wanted = nn.functional.linear(features, state["weight"], state["bias"])
        assert torch.equal(model.heads[name](features), wanted)


def test_a_checkpoint_serves_until_the_run_has_ended(tmp_path):
    run = make_trained_run(tmp_path / "run")
    late = run.encoder_weights()
    encoders = build_encoders(run.recipe)
    run.write_state(State(step=3), encoders)
    early = {modality: encoder.state_dict() for modality, encoder in encoders.items()}
    assert has_weights(xdc_fast.load(run.root), late)
    assert has_weights(xdc_fast.load(run.root / "checkpoint.pt"), early)
    (run.root / "encoders.pt").unlink()
    (run.root / "heads.pt").unlink()
    model = xdc_fast.load(run.root)
    assert has_weights(model, early) and model.heads == {}
    (run.root / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match=r"no checkpoint yet"):
        xdc_fast.load(run.root)


def test_random_encoders_are_those_a_run_begins_with():
    recipe = load_recipe(None, (*TINY, "seed=5"))
    model = xdc_fast.load("random", ("train.lr=3e-05", "video.mean=[0.5, 0.25, 1]"), recipe=recipe)
    assert (model.name, model.run, model.heads) == ("random", None, {})
    assert model.recipe.train.lr == 3e-5 and model.recipe.video.mean == (0.5, 0.25, 1.0)
    assert model.recipe.seed == 5 and model.recipe.out == ""
    wanted = {m: encoder.state_dict() for m, encoder in build_encoders(recipe).items()}
    assert has_weights(model, wanted)
    with pytest.raises(UserError, match=r"random: a recipe must name the encoders; .*--recipe"):
        xdc_fast.load("random")


def test_settings_override_the_runs_recipe_but_not_its_encoders(run):
    model = xdc_fast.load(run.root, ("video.frames=4", "audio.encoder=audio_tiny"))
    assert model.recipe.video.frames == model.inputs.shape.frames == 4
    assert model.run.recipe.video.frames == 8
    with pytest.raises(UserError, match=r"video.encoder=r2plus1d_18: .* weights of r2plus1d_tiny"):
        xdc_fast.load(run.root, ("video.encoder=r2plus1d_18",))
    with pytest.raises(UserError, match=r"did you mean 'video.frames'"):
        xdc_fast.load(run.root, ("video.frame=4",))
    with pytest.raises(UserError, match=r"comes with its own recipe; leave --recipe out"):
        xdc_fast.load(run.root, recipe=Recipe())


def test_weights_of_another_architecture_are_one_clear_line(tmp_path):
    run = make_trained_run(tmp_path / "run")
    recipe = (run.root / "recipe.yaml").read_text()
    (run.root / "recipe.yaml").write_text(recipe.replace("r2plus1d_tiny", "r2plus1d_small"))
    with pytest.raises(UserError) as caught:
        xdc_fast.load(run.root)
    assert str(caught.value) == (
        f"{run.root / 'encoders.pt'}: weights of another architecture than r2plus1d_small: "
        "stem.0.weight is (12, 3, 1, 5, 5), not (16, 3, 1, 7, 7); set video.encoder in its recipe "
        "to what it was trained with"
    )
    (run.root / "recipe.yaml").write_text(recipe)
    for change, match in (
        (lambda w: w["audio"].pop("stem.0.weight"), "than audio_tiny: no stem.0.weight; set audio"),
        (lambda w: w["audio"].update(extra=torch.zeros(1)), "than audio_tiny: unknown extra; set"),
        (lambda w: w["audio"].update(extra=3), "holds other things than weights"),
        (lambda w: w.pop("audio"), "no weights of a run; give encoders.pt"),
    ):
        weights = {m: dict(w) for m, w in run.encoder_weights().items()}
        change(weights)
        torch.save(weights, run.root / "changed.pt")
        with pytest.raises(UserError, match=match):
            xdc_fast.load(run.root / "changed.pt")


def test_what_is_no_model_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file or folder; give a run"):
        xdc_fast.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no recipe.yaml there, so no run"):
        xdc_fast.load(tmp_path)
    torn = run.root / "torn.pt"
    torn.write_bytes((run.root / "encoders.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"torn.pt: cannot be read \(\w+\); remove it and"):
        xdc_fast.load(torn)
