"""Sampling from a start, with what is known put back, and conditioned on several views in turn."""

import pytest
import torch
from tiny_pipelines import input_view, orbit, tiny_released

from zeronvs._core.random import draw_noise, seeded_generator
from zeronvs.cameras.view import View
from zeronvs.diffusion.condition import Condition, join_conditions
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.sampling import Start, add_noise, ddim_timesteps

STEPS = 10


class Recording(ZeroNVSPipeline):
    """A model that keeps the inputs of each prediction."""

    def predict(self, noisy_latent, timestep, camera_condition):
        self.inputs.append((noisy_latent, int(timestep[0]), camera_condition))
        return super().predict(noisy_latent, timestep, camera_condition)


@pytest.fixture
def pipe() -> Recording:
    pipe = Recording(**tiny_released().components)
    pipe.inputs = []
    return pipe


@pytest.fixture
def conditions(pipe: Recording) -> Condition:
    """Return the input view, and its negative."""
    view = input_view()
    views = [view, View(1.0 - view.image, view.camera, view.depth_z)]
    return join_conditions([pipe.encode(one, 0.7) for one in views])


def sampled(pipe: Recording, condition: Condition, count: int = 1, **settings) -> torch.Tensor:
    settings = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "decode": False} | settings
    return pipe.sample(condition, orbit(3)[:count], [5, 6, 7][:count], **settings)


def start(count: int = 1, **settings) -> Start:
    latent = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    return Start(latent=latent, **({"noise_level": 0.5} | settings))


def test_a_start_is_noised_to_its_level_and_noisier_steps_are_skipped(pipe, conditions):
    events = []
    begun = start()
    sampled(pipe, conditions[0], start=begun, callback=events.append)
    visited = [timestep for _, timestep, _ in pipe.inputs]
    assert visited == [t for t in ddim_timesteps(pipe.scheduler, STEPS).tolist() if t <= 500]
    assert [(event.step, event.total) for event in events] == [(k, 5) for k in range(1, 6)]
    noise = draw_noise([seeded_generator(5)], (4, 8, 8))
    alpha_bar = pipe.alphas_cumprod[[visited[0]]]
    torch.testing.assert_close(pipe.inputs[0][0], add_noise(begun.latent, noise, alpha_bar))


def test_a_start_at_the_least_noise_takes_one_step(pipe, conditions):
    begun = start(noise_level=0.0)
    latent = sampled(pipe, conditions[0], start=begun)
    assert len(pipe.inputs) == 1
    assert float((latent - begun.latent).abs().mean()) < 0.2


def test_known_latents_are_put_back_with_the_noise_of_the_step_for_a_share_of_the_steps(
    pipe, conditions
):
    known = torch.zeros(1, 1, 8, 8)
    known[..., :4] = 1.0
    begun = start(noise_level=1.0, known=known, known_share=0.6)
    sampled(pipe, conditions[0], start=begun)
    noise = draw_noise([seeded_generator(5)], (4, 8, 8))
    kept = []
    for latent, timestep, _ in pipe.inputs[1:]:
        expected = add_noise(begun.latent, noise, pipe.alphas_cumprod[[timestep]])
        same = torch.isclose(latent, expected, atol=1e-5)
        assert not bool(same[..., 4:].all())
        kept.append(bool(same[..., :4].all()))
    assert kept == [True] * 6 + [False] * 3


def test_what_is_known_everywhere_comes_out_as_it_went_in(pipe, conditions):
    begun = start(known=torch.ones(1, 1, 8, 8), known_share=1.0)
    latent = sampled(pipe, conditions[0], start=begun)
    torch.testing.assert_close(latent, begun.latent, atol=0.15, rtol=0)


def test_each_step_is_conditioned_on_the_view_that_was_chosen_for_it(pipe, conditions):
    chosen = torch.tensor([[k % 2] for k in range(STEPS)])
    sampled(pipe, conditions, chosen=chosen)
    assert len(pipe.inputs) == STEPS
    for (_, _, condition), row in zip(pipe.inputs, chosen, strict=True):
        assert torch.equal(condition.concat, conditions[row].latent)
    # The camera is relative to the view that was chosen: both have the same one here.
    expected = pipe.prepare(conditions[1], orbit(3)[:1]).tokens
    torch.testing.assert_close(pipe.inputs[1][2].tokens, expected)


def test_choosing_one_view_throughout_is_sampling_from_it_alone(pipe, conditions):
    alone = sampled(pipe, conditions[1], count=3)
    chosen = torch.ones((STEPS, 3), dtype=torch.long)
    torch.testing.assert_close(sampled(pipe, conditions, count=3, chosen=chosen), alone)


def test_a_sample_with_a_start_and_choices_is_the_same_in_any_batch(pipe, conditions):
    begun = start(3, known=torch.ones(3, 1, 8, 8), known_share=0.3)
    chosen = torch.randint(2, (STEPS, 3), generator=torch.Generator().manual_seed(1))
    together = sampled(pipe, conditions, count=3, chosen=chosen, start=begun)
    apart = sampled(pipe, conditions, count=3, chosen=chosen, start=begun, batch_size=1)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
