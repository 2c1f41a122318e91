import pytest
import torch
from diffusers import DDIMScheduler
from torch.testing import assert_close

from zeronvs._core.random import seeded_generator
from zeronvs.diffusion.sampling import ddim_sample, ddim_timesteps

PUBLISHED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
ZERO_SNR = {
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def predict(latent, timestep):
    return torch.sin(latent + timestep[:, None, None, None] / 500)


@pytest.mark.parametrize("settings", [PUBLISHED, ZERO_SNR])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_our_steps_are_those_of_the_scheduler(settings, eta):
    scheduler = DDIMScheduler(**settings)
    start = torch.randn(2, 3, 4, 4, generator=seeded_generator(0))
    generators = [seeded_generator(1), seeded_generator(2)]
    ours = ddim_sample(predict, scheduler, start, generators, num_inference_steps=7, eta=eta)
    generators = [seeded_generator(1), seeded_generator(2)]
    scheduler.set_timesteps(7)
    latent = start
    for timestep in scheduler.timesteps:
        fresh = torch.stack([torch.randn(3, 4, 4, generator=g) for g in generators])
        latent = scheduler.step(
            predict(latent, timestep.expand(2)),
            timestep,
            latent,
            eta=eta,
            variance_noise=fresh if eta > 0 else None,
        ).prev_sample
    assert_close(ours, latent, atol=1e-4, rtol=1e-4)


def test_full_noise_at_the_end_of_the_schedule_stays_finite():
    scheduler = DDIMScheduler(**ZERO_SNR)
    start = torch.randn(1, 3, 4, 4)
    for steps in (1, 3, 50):
        latent = ddim_sample(
            predict, scheduler, start, [seeded_generator(1)], num_inference_steps=steps, eta=1.0
        )
        assert latent.isfinite().all()


def test_a_perfect_network_leads_back_to_the_clean_latent():
    scheduler = DDIMScheduler(**PUBLISHED)
    clean = torch.randn(1, 3, 4, 4)

    def perfect(latent, timestep):
        alpha_bar = scheduler.alphas_cumprod[timestep]
        return (latent - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()

    latent = ddim_sample(
        perfect,
        scheduler,
        torch.randn(1, 3, 4, 4),
        [seeded_generator(1)],
        num_inference_steps=20,
        eta=1.0,
    )
    assert_close(latent, clean, atol=0.2, rtol=0.0)


def test_asking_for_timesteps_leaves_the_scheduler_as_it_was():
    scheduler = DDIMScheduler(**PUBLISHED)
    before = scheduler.timesteps.clone()
    assert ddim_timesteps(scheduler, 4).tolist() == [751, 501, 251, 1]
    assert torch.equal(scheduler.timesteps, before)
