"""Every start: checkpoints of the original code, folders, the built-in model, nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import TINY, official_state, save
from tiny_pipelines import tiny_released

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.checkpoints.keys import links_of
from zeronvs.training.starting_weights import (
    load_start,
    make_builtin_pipeline,
    swap_projection,
)

VIEWER = Representation.SIX_DOF_VIEWER


def zero123(folder: Path) -> Path:
    """Write a checkpoint as Zero-1-to-3 has it: four numbers of the camera."""
    shape = replace(TINY, representation=Representation.THREE_DOF, camera_embed_dim=4)
    return save(folder / "zero123-xl.ckpt", official_state(shape))


def test_zero123_weights_get_nineteen_fresh_camera_columns_and_keep_the_rest(tmp_path):
    path = zero123(tmp_path)
    start = load_start(str(path), VIEWER, seed=1, work_dir=tmp_path / "run")
    state = torch.load(path, weights_only=True)["state_dict"]
    width = TINY.clip.projection_dim
    old, new = state["cc_projection.weight"], start.pipe.cc_projection.projection.weight
    assert new.shape == (old.shape[0], width + 19)
    assert torch.equal(new[:, :width], old[:, :width])
    assert torch.equal(start.pipe.cc_projection.projection.bias, state["cc_projection.bias"])
    bound = (width + 19) ** -0.5
    fresh = new[:, width:].detach()
    assert float(fresh.abs().max()) <= bound
    assert float(fresh.std()) == pytest.approx(bound / 3**0.5, rel=0.15)
    assert start.pipe.cc_projection.config["representation"] == str(VIEWER)


def test_training_resumes_with_the_weights_as_trained_and_their_average(tmp_path):
    path = zero123(tmp_path)
    state = torch.load(path, weights_only=True)["state_dict"]
    start = load_start(str(path), VIEWER, seed=1, work_dir=tmp_path / "run")
    link = next(link for link in links_of(TINY)["unet"] if link.stored == ("conv_out.weight",))
    trained = state[link.official]
    average = state["model_ema.diffusion_modelout2weight"]
    assert torch.equal(start.pipe.unet.conv_out.weight, trained)
    assert start.average is not None
    assert torch.equal(start.average["conv_out.weight"], average)
    assert start.average_updates == int(state["model_ema.num_updates"])
    averaged = load_start(str(path), VIEWER, seed=1, work_dir=tmp_path / "run", takes_average=False)
    assert torch.equal(averaged.pipe.unet.conv_out.weight, average)
    assert averaged.average is None


def test_a_released_checkpoint_starts_as_it_is(tmp_path):
    path = save(tmp_path / "zeronvs.ckpt", official_state())
    start = load_start(str(path), VIEWER, seed=1, work_dir=tmp_path / "run")
    state = torch.load(path, weights_only=True)["state_dict"]
    projection = start.pipe.cc_projection.projection
    assert torch.equal(projection.weight, state["cc_projection.weight"])


@pytest.mark.parametrize("representation", list(Representation))
def test_every_representation_is_reached_from_every_other(representation):
    generator = torch.Generator().manual_seed(0)
    for before in (Representation.THREE_DOF, VIEWER):
        old = swap_projection(tiny_released().cc_projection, before, generator)
        new = swap_projection(old, representation, generator)
        assert new.config["representation"] == str(representation)
        assert new.projection.weight.shape[1] == 12 + representation.size
        assert torch.equal(new.projection.weight[:, :12], old.projection.weight[:, :12])
        if representation.size == before.size:
            assert torch.equal(new.projection.weight, old.projection.weight)


def test_a_fresh_denoiser_uses_the_frozen_parts_of_a_model(tmp_path):
    pipe = tiny_released()
    pipe.save_pretrained(tmp_path / "model")
    start = load_start(f"scratch:{tmp_path / 'model'}", None, seed=1, work_dir=tmp_path)
    assert torch.equal(start.pipe.vae.encoder.conv_in.weight, pipe.vae.encoder.conv_in.weight)
    assert not torch.equal(start.pipe.unet.conv_in.weight, pipe.unet.conv_in.weight)
    again = load_start(f"scratch:{tmp_path / 'model'}", None, seed=1, work_dir=tmp_path)
    assert torch.equal(start.pipe.unet.conv_in.weight, again.pipe.unet.conv_in.weight)


def test_from_scratch_is_the_built_in_architecture(tmp_path):
    start = load_start("scratch", Representation.THREE_DOF, seed=1, work_dir=tmp_path)
    assert start.pipe.conditioning.needs_depth
    assert start.pipe.cc_projection.config["camera_embed_dim"] == 4


@pytest.mark.parametrize("start", ["scratch:", "no/such/folder/at/all", "nothing.ckpt"])
def test_a_start_that_is_nothing_is_refused(start, tmp_path):
    with pytest.raises(InputError):
        load_start(start, None, seed=1, work_dir=tmp_path)


def test_random_weights_follow_their_seed_and_leave_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (make_builtin_pipeline(seed).unet.conv_in.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
