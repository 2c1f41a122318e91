"""The denoising objective: its terms, weights, dropout and everything drawn for a pair."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from pair_world import made_up_batch
from tiny_pipelines import FixedGeometry, tiny_released, tiny_warp

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.training.denoising import DenoisingObjective, Examples, dropout_masks, timesteps
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.view_pairs import complete_depth, pair_scales

CONFIG = FinetuneConfig(seed=3)
VIEWER = Representation.SIX_DOF_VIEWER


FLAT = FixedGeometry()


def test_five_percent_each_lose_the_embedding_the_channels_and_both():
    draw = torch.linspace(0, 1, 100_001)[:-1]
    image, channels = dropout_masks(draw, 0.05)
    share = {
        "embedding": ((image == 0) & (channels == 1)).float().mean(),
        "both": ((image == 0) & (channels == 0)).float().mean(),
        "channels": ((image == 1) & (channels == 0)).float().mean(),
    }
    for value in share.values():
        assert float(value) == pytest.approx(0.05, abs=1e-4)
    # The published order along u: embedding alone, both, channels alone, nothing.
    assert dropout_masks(torch.tensor([0.02, 0.07, 0.12, 0.2]), 0.05)[0].tolist() == [0, 0, 1, 1]
    assert dropout_masks(torch.tensor([0.02, 0.07, 0.12, 0.2]), 0.05)[1].tolist() == [1, 0, 0, 1]


def test_what_is_drawn_for_a_pair_does_not_depend_on_its_batch():
    pipe = tiny_released()
    objective = DenoisingObjective(pipe, CONFIG)
    together = objective.draw_examples(made_up_batch([4, 5, 6]), [10, 11, 12])
    alone = objective.draw_examples(made_up_batch([5]), [11])
    for name in ("noise", "timestep", "keeps_image", "keeps_channels", "window_draw"):
        assert torch.equal(getattr(together, name)[1:2], getattr(alone, name))
    torch.testing.assert_close(together.clean_latent[1:2], alone.clean_latent)


def test_times_are_uniform_over_the_whole_schedule():
    objective, batch = DenoisingObjective(tiny_released(), CONFIG), made_up_batch([1])
    times = [int(objective.draw_examples(batch, [k]).timestep) for k in range(400)]
    assert min(times) < 20
    assert max(times) > 979
    assert sum(times) / len(times) == pytest.approx(499.5, abs=45)


def denoising(objective: DenoisingObjective, examples: Examples) -> torch.Tensor:
    """Return the denoising term of each pair."""
    with torch.no_grad():
        return objective(examples)["denoising"]


def test_a_share_of_the_pairs_starts_where_sampling_starts_and_the_rest_favours_noise():
    draw = (torch.arange(10_000) + 0.5) / 10_000
    config = replace(CONFIG, pure_noise_share=0.3, timestep_exponent=0.5)
    times = timesteps(draw, 1000, config)
    assert float((times == 999).float().mean()) == pytest.approx(0.3, abs=0.01)
    others = times[times < 999].float()
    # The mean of sqrt(u) is 2/3; that of u is 1/2.
    assert float(others.mean()) == pytest.approx(666, abs=5)
    plain = timesteps(draw, 1000, CONFIG)
    assert plain.unique(return_counts=True)[1].tolist() == [10] * 1000


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_zero_for_a_network_that_predicts_the_target(kind):
    pipe = tiny_released() if kind == "epsilon" else tiny_warp(prediction_type=kind)
    objective = DenoisingObjective(pipe, replace(CONFIG, dropout=0.0), geometry_estimator=FLAT)
    examples = objective.draw_examples(made_up_batch([1, 2]), [0, 1])
    alpha_bar = pipe.alphas_cumprod[examples.timestep][:, None, None, None]
    targets = {
        "epsilon": examples.noise,
        "v_prediction": alpha_bar.sqrt() * examples.noise
        - (1 - alpha_bar).sqrt() * examples.clean_latent,
        "sample": examples.clean_latent,
    }
    # A warping network that predicts clean latents predicts the difference to the warped input.
    with predicting(pipe, torch.zeros_like(examples.noise)):
        conditioning = objective.conditioning(examples)[1]
        added = pipe.predict(examples.noise, examples.timestep, conditioning)
    with predicting(pipe, targets[kind] - added):
        assert float(denoising(objective, examples).max()) < 1e-8
    with predicting(pipe, targets[kind] - added + 0.1):
        weight = (1 / (1 - alpha_bar)).clamp_max(CONFIG.max_loss_weight).flatten()
        expected = 0.01 * (weight if kind == "sample" else torch.ones(2))
        torch.testing.assert_close(denoising(objective, examples), expected, rtol=1e-3, atol=1e-6)


@contextmanager
def predicting(pipe, output: torch.Tensor):
    """Replace the U-Net's output."""
    handle = pipe.unet.register_forward_hook(lambda *_: UNet2DConditionOutput(sample=output))
    yield
    handle.remove()


def test_a_dropped_image_leaves_the_pose():
    objective = DenoisingObjective(tiny_released(), CONFIG)
    examples = objective.draw_examples(made_up_batch([1, 2]), [0, 1])
    none = torch.zeros(2)
    complete, dropped = objective.conditioning(
        replace(examples, keeps_image=none, keeps_channels=none)
    )
    assert float(complete.concat.abs().max()) > 0.0
    assert float(dropped.concat.abs().max()) == 0.0
    assert not torch.equal(dropped.tokens[0], dropped.tokens[1])  # [0, pose], of two poses


def test_dropout_reaches_the_network_with_the_configured_probability():
    objective = DenoisingObjective(tiny_released(), replace(CONFIG, dropout=0.2))
    count = 300
    batch = made_up_batch([1] * count)
    examples = objective.draw_examples(batch, list(range(count)))
    seen = []

    def record(module, args, kwargs):
        seen.append((args[0][:, 4:].abs().amax((1, 2, 3)), kwargs["encoder_hidden_states"][:, 0]))

    objective.unet.register_forward_pre_hook(record, with_kwargs=True)
    denoising(objective, examples)
    channels, tokens = seen[0]
    without_channels = channels == 0
    # All pairs are the same, so there are two tokens: with the image and without it.
    without_image = (tokens - tokens[examples.keeps_image == 1][0]).abs().amax(1) > 1e-6
    shares = [
        float((without_image & ~without_channels).float().mean()),
        float((without_image & without_channels).float().mean()),
        float((~without_image & without_channels).float().mean()),
    ]
    assert shares == pytest.approx([0.2, 0.2, 0.2], abs=0.07)
    assert torch.equal(without_image, examples.keeps_image == 0)
    assert torch.equal(without_channels, examples.keeps_channels == 0)


def test_every_representation_finds_its_scale():
    batch = made_up_batch([1, 2])
    for representation in Representation:
        scale = pair_scales(batch, representation)
        needs_none = representation in (Representation.THREE_DOF, Representation.SIX_DOF)
        known = batch.scene_scale[representation.scaled_as]
        assert torch.equal(scale, torch.ones(2) if needs_none else known)


def test_a_pair_without_a_scale_does_not_count_and_data_without_any_has_a_remedy():
    lacking = {VIEWER: torch.tensor([1.0, torch.nan])}
    batch = replace(made_up_batch([1, 2]), scene_scale=lacking)
    objective = DenoisingObjective(tiny_warp(), CONFIG, geometry_estimator=FLAT)
    examples = objective.draw_examples(batch, [0, 1])
    assert objective.usable(examples).tolist() == [1.0, 0.0]
    assert denoising(objective, examples).isfinite().all()
    with pytest.raises(InputError, match=r"6DoF\+1, norm"):
        pair_scales(replace(batch, scene_scale={}), Representation.SIX_DOF_VIEWER)


def test_known_depth_is_kept_and_its_holes_are_filled_in_scene_units():
    batch = made_up_batch([1, 2], with_depth=True)
    image = batch.input_image.float() / 255
    truth = 3.0 * ramp_depth(image)
    holes = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    known = torch.where(holes, 0.0, truth)
    ramp = FixedGeometry(ramp_depth)
    filled = complete_depth(replace(batch, input_depth_z=known), image, ramp)
    torch.testing.assert_close(filled, truth, rtol=1e-3, atol=1e-3)
    empty = replace(batch, input_depth_z=torch.zeros_like(known))
    viewer = batch.scene_scale[VIEWER]
    torch.testing.assert_close(
        complete_depth(empty, image, ramp), ramp_depth(image) * viewer[:, None, None]
    )
    assert torch.equal(complete_depth(empty, image, None), empty.input_depth_z)
    with pytest.raises(InputError, match="Convert the scenes with depth"):
        complete_depth(replace(batch, input_depth_z=None), image, None)
    released = DenoisingObjective(tiny_released(), CONFIG, geometry_estimator=ramp)
    assert released.view_pairs(batch).input_view.depth_z is None


def ramp_depth(image: torch.Tensor) -> torch.Tensor:
    """Return a relative depth whose disparity rises along the image."""
    width = image.shape[-1]
    return (1 / torch.linspace(0.3, 1.0, width)).expand(len(image), width, width)
