"""What is asked of the denoiser, and what is drawn for each pair."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from pair_world import made_up_batch
from tiny_pipelines import FixedGeometry, tiny_released, tiny_warp

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.objective import (
    TrainedDenoiser,
    input_depth,
    kept,
    make_examples,
    scale_of,
)

CONFIG = FinetuneConfig(seed=3)
VIEWER = Representation.SIX_DOF_VIEWER


FLAT = FixedGeometry()


def test_five_percent_each_lose_the_embedding_the_channels_and_both():
    draw = torch.linspace(0, 1, 100_001)[:-1]
    image, channels = kept(draw, 0.05)
    share = {
        "embedding": ((image == 0) & (channels == 1)).float().mean(),
        "both": ((image == 0) & (channels == 0)).float().mean(),
        "channels": ((image == 1) & (channels == 0)).float().mean(),
    }
    for value in share.values():
        assert float(value) == pytest.approx(0.05, abs=1e-4)
    # The published order along u: embedding alone, both, channels alone, nothing.
    assert kept(torch.tensor([0.02, 0.07, 0.12, 0.2]), 0.05)[0].tolist() == [0, 0, 1, 1]
    assert kept(torch.tensor([0.02, 0.07, 0.12, 0.2]), 0.05)[1].tolist() == [1, 0, 0, 1]


def test_what_is_drawn_for_a_pair_does_not_depend_on_its_batch():
    pipe = tiny_released()
    together = make_examples(pipe, made_up_batch([4, 5, 6]), [10, 11, 12], CONFIG)
    alone = make_examples(pipe, made_up_batch([5]), [11], CONFIG)
    for name in ("noise", "timestep", "keeps_image", "keeps_channels"):
        assert torch.equal(getattr(together, name)[1:2], getattr(alone, name))
    torch.testing.assert_close(together.clean_latent[1:2], alone.clean_latent)


def test_times_are_uniform_over_the_whole_schedule():
    pipe, batch = tiny_released(), made_up_batch([1])
    times = [int(make_examples(pipe, batch, [k], CONFIG).timestep) for k in range(400)]
    assert min(times) < 20
    assert max(times) > 979
    assert sum(times) / len(times) == pytest.approx(499.5, abs=45)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_zero_for_a_network_that_knows_the_answer(kind):
    pipe = tiny_released() if kind == "epsilon" else tiny_warp(prediction_type=kind)
    examples = make_examples(
        pipe, made_up_batch([1, 2]), [0, 1], replace(CONFIG, dropout=0.0), FLAT
    )
    model = TrainedDenoiser(pipe, CONFIG)
    signal = pipe.alphas_cumprod[examples.timestep][:, None, None, None]
    answers = {
        "epsilon": examples.noise,
        "v_prediction": signal.sqrt() * examples.noise
        - (1 - signal).sqrt() * examples.clean_latent,
        "sample": examples.clean_latent,
    }
    # A network of the warp kind that says clean latents says the difference to the warped input.
    with saying(pipe, torch.zeros_like(examples.noise)):
        added = pipe.predict(examples.noise, examples.timestep, model._told(examples))
    with saying(pipe, answers[kind] - added):
        assert float(model(examples).abs().max()) < 1e-8
    with saying(pipe, answers[kind] - added + 0.1):
        weight = (1 / (1 - signal)).clamp_max(CONFIG.max_loss_weight).flatten()
        wanted = 0.01 * (weight if kind == "sample" else torch.ones(2))
        torch.testing.assert_close(model(examples), wanted, rtol=1e-3, atol=1e-6)


@contextmanager
def saying(pipe, output: torch.Tensor):
    """Let the U-Net answer this."""
    handle = pipe.unet.register_forward_hook(lambda *_: UNet2DConditionOutput(sample=output))
    yield
    handle.remove()


def test_a_dropped_image_still_tells_the_pose():
    pipe = tiny_released()
    examples = make_examples(pipe, made_up_batch([1, 2]), [0, 1], CONFIG)
    none = torch.zeros(2)
    told = TrainedDenoiser(pipe, CONFIG)._told(
        replace(examples, keeps_image=none, keeps_channels=none)
    )
    assert float(told.concat.abs().max()) == 0.0
    assert not torch.equal(told.tokens[0], told.tokens[1])  # [0, pose], of two poses


def test_every_representation_finds_its_scale():
    batch = made_up_batch([1, 2])
    for representation in Representation:
        scale = scale_of(batch, representation)
        needs_none = representation in (Representation.THREE_DOF, Representation.SIX_DOF)
        known = batch.scene_scale[representation]
        assert torch.equal(scale, torch.ones(2) if needs_none else known)


def test_a_pair_without_a_scale_does_not_count_and_data_without_any_says_what_to_do():
    lacking = {VIEWER: torch.tensor([1.0, torch.nan])}
    batch = replace(made_up_batch([1, 2]), scene_scale=lacking)
    examples = make_examples(tiny_warp(), batch, [0, 1], CONFIG, FLAT)
    assert examples.usable.tolist() == [1.0, 0.0]
    assert TrainedDenoiser(tiny_warp(), CONFIG)(examples).isfinite().all()
    with pytest.raises(InputError, match=r"6DoF\+1, norm"):
        scale_of(replace(batch, scene_scale={}), Representation.SIX_DOF_VIEWER)


def test_known_depth_is_kept_and_its_holes_are_filled_in_scene_units():
    pipe = tiny_warp()
    batch = made_up_batch([1, 2], with_depth=True)
    image = batch.input_image.float() / 255
    truth = 3.0 * ramp_depth(image)
    holes = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    known = torch.where(holes, 0.0, truth)
    ramp = FixedGeometry(ramp_depth)
    filled = input_depth(pipe, replace(batch, input_depth_z=known), image, ramp)
    torch.testing.assert_close(filled, truth, rtol=1e-3, atol=1e-3)
    nothing = input_depth(pipe, replace(batch, input_depth_z=torch.zeros_like(known)), image, ramp)
    viewer = batch.scene_scale[VIEWER]
    torch.testing.assert_close(nothing, ramp_depth(image) * viewer[:, None, None])
    assert input_depth(tiny_released(), batch, image) is None


def ramp_depth(image: torch.Tensor) -> torch.Tensor:
    """Return a relative depth whose disparity rises along the picture."""
    width = image.shape[-1]
    return (1 / torch.linspace(0.3, 1.0, width)).expand(len(image), width, width)
