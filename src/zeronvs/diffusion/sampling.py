"""Noise schedule, and sampling by DDIM (arXiv:2010.02502) with one generator per sample.

The step is implemented here because the scheduler's own returns NaN at the first step of a schedule
that ends in pure noise when eta is 1: rounding makes the argument of a square root negative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.random import draw_noise

Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy latent "n c h w", timestep " n") -> guided network prediction."""
OnStep = Callable[[int, int, Tensor], Tensor]
"""(step counted from 0, timestep, latent) -> latent for the next step."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """Where sampling starts instead of pure noise (SDEdit, arXiv:2108.01073)."""

    latent: Float[Tensor, "n c h w"]
    """Clean scaled latents; sampling adds the noise of the first timestep to them."""
    noise_level: float
    """Highest timestep as a fraction of the training timesteps; noisier ones are skipped."""
    known: Float[Tensor, "n 1 h w"] | None = None
    """1 where the latents are known: put back after a step, with the noise of that step (RePaint,
    arXiv:2201.09865). None: nowhere."""
    known_share: float = 0.0
    """Share of the steps, the first ones, after which they are put back."""

    def __getitem__(self, rows: slice) -> "Start":
        """Return the start of the samples at `rows`."""
        known = None if self.known is None else self.known[rows]
        return replace(self, latent=self.latent[rows], known=known)


def ddim_sample(
    predict: Predict,
    scheduler: DDIMScheduler,
    initial_latent: Float[Tensor, "n c h w"],
    generators: Sequence[torch.Generator],
    *,
    num_inference_steps: int,
    eta: float,
    start: Start | None = None,
    on_step: OnStep | None = None,
) -> Float[Tensor, "n c h w"]:
    """Sample clean (scaled) latents from noise.

    Args:
        scheduler: Noise schedule, spacing of timesteps and kind of prediction; not changed.
        initial_latent: Standard normal noise.
        generators: One per sample, for the noise that `eta` > 0 adds at each step.
        num_inference_steps: Steps over the whole schedule, from 1 to the number of training
            timesteps.
        eta: 0 = deterministic, 1 = as much noise as ancestral sampling.
        start: Latents to start from, with `initial_latent` as their noise; None: pure noise.

    Raises:
        InputError: The number of steps or eta is out of range.
    """
    if not 0.0 <= eta <= 1.0:
        raise InputError(f"eta is {eta:g}; it must lie between 0 and 1.")
    level = 1.0 if start is None else start.noise_level
    timesteps = ddim_timesteps(scheduler, num_inference_steps, level).tolist()
    # The scheduler steps back by an even stride, past the first training timestep at the end.
    stride = int(scheduler.config["num_train_timesteps"]) // num_inference_steps
    latent = initial_latent
    if start is not None:
        latent = _noised(start.latent, initial_latent, scheduler, timesteps[0])
    for index, timestep in enumerate(timesteps):
        batch = torch.full((len(latent),), timestep, dtype=torch.long, device=latent.device)
        clean, noise = split_prediction(scheduler, predict(latent, batch), timestep, latent)
        fresh = None
        if eta > 0:
            fresh = draw_noise(generators, tuple(latent.shape[1:])).to(latent)
        latent = _step_back(scheduler, clean, noise, fresh, timestep, timestep - stride, eta)
        if start is not None and start.known is not None:
            if index < start.known_share * len(timesteps):
                known = _noised(start.latent, initial_latent, scheduler, timestep - stride)
                latent = torch.where(start.known > 0, known, latent)
        if on_step is not None:
            latent = on_step(index, timestep, latent)
    return latent


def add_noise(
    latent: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    alpha_bar: Float[Tensor, " n"],
) -> Float[Tensor, "n c h w"]:
    """Return sqrt(alpha_bar) latent + sqrt(1 - alpha_bar) noise."""
    alpha_bar = alpha_bar[:, None, None, None]
    return alpha_bar.sqrt() * latent + (1.0 - alpha_bar).sqrt() * noise


def _noised(
    latent: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    scheduler: DDIMScheduler,
    timestep: int,
) -> Float[Tensor, "n c h w"]:
    """Return the latents with the noise of a timestep; below 0 means the end."""
    alpha_bar = torch.full_like(latent[:, 0, 0, 0], _alpha_bar(scheduler, timestep))
    return add_noise(latent, noise, alpha_bar)


def _alpha_bar(scheduler: DDIMScheduler, timestep: int) -> float:
    """Return alpha_bar at a timestep; below 0 means the end."""
    table = scheduler.alphas_cumprod
    return float(table[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod)


def ddim_timesteps(
    scheduler: DDIMScheduler, num_inference_steps: int, noise_level: float = 1.0
) -> Int[Tensor, " steps"]:
    """Return the timesteps a run of this many steps visits, noisiest first.

    Args:
        noise_level: Timesteps above this fraction of the training timesteps are left out, but for
            the last one.

    Raises:
        InputError: There are fewer than one or more than the training timesteps.
    """
    limit = int(scheduler.config["num_train_timesteps"])
    if not 1 <= num_inference_steps <= limit:
        raise InputError(
            f"num_inference_steps is {num_inference_steps}; it must lie between 1 and {limit}."
        )
    stepper: Any = DDIMScheduler.from_config(scheduler.config)
    stepper.set_timesteps(num_inference_steps)
    timesteps = stepper.timesteps
    kept = timesteps[timesteps <= noise_level * limit]
    return kept if len(kept) else timesteps[-1:]


def split_prediction(
    scheduler: DDIMScheduler,
    output: Float[Tensor, "n c h w"],
    timestep: int,
    noisy_latent: Float[Tensor, "n c h w"],
) -> tuple[
    Float[Tensor, "n c h w"],  # the clean latent implied
    Float[Tensor, "n c h w"],  # the noise implied
]:
    """Split noisy latents into clean latent and noise, given an epsilon, x_0 or v prediction.

    v-prediction: arXiv:2202.00512.
    """
    alpha_bar = float(scheduler.alphas_cumprod[timestep])
    signal_rate, noise_rate = alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
    if scheduler.config["prediction_type"] == "v_prediction":
        clean = signal_rate * noisy_latent - noise_rate * output
        noise = signal_rate * output + noise_rate * noisy_latent
    elif scheduler.config["prediction_type"] == "sample":
        clean = output
        noise = (noisy_latent - signal_rate * output) / max(noise_rate, 1e-4)
    else:
        clean = (noisy_latent - noise_rate * output) / max(signal_rate, 1e-4)
        noise = output
    if scheduler.config["clip_sample"]:
        limit = scheduler.config["clip_sample_range"]
        clean = clean.clamp(-limit, limit)
    return clean, noise


def _step_back(
    scheduler: DDIMScheduler,
    clean: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    fresh_noise: Float[Tensor, "n c h w"] | None,
    timestep: int,
    earlier: int,
    eta: float,
) -> Float[Tensor, "n c h w"]:
    """Return the latent at an earlier timestep (Eq. 12 and 16 of DDIM); below 0 means the end."""
    alpha_bar, alpha_bar_prev = _alpha_bar(scheduler, timestep), _alpha_bar(scheduler, earlier)
    ancestral = (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_prev)
    variance = eta**2 * ancestral
    direction = max(1.0 - alpha_bar_prev - variance, 0.0) ** 0.5
    latent = alpha_bar_prev**0.5 * clean + direction * noise
    return latent if fresh_noise is None else latent + max(variance, 0.0) ** 0.5 * fresh_noise


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """Betas whose square roots are evenly spaced ("scaled_linear")."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    timesteps: int = 1000

    def config(self) -> dict[str, Any]:
        """Return what makes the `DDIMScheduler` of the published samplers.

        Source: published code, threestudio/models/guidance/zero123_guidance.py.
        """
        return {
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "num_train_timesteps": self.timesteps,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        }

    def buffers(self) -> dict[str, Tensor]:
        """Return the twelve float32 buffers of a released file, each of shape (timesteps,).

        Source: published code, ldm/models/diffusion/ddpm.py, `register_schedule`.
        """
        roots = torch.linspace(
            self.beta_start**0.5, self.beta_end**0.5, self.timesteps, dtype=torch.float64
        )
        betas = roots**2
        alphas = 1.0 - betas
        alpha_bar = alphas.cumprod(0)
        alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        variance = betas * (1.0 - alpha_bar_prev) / (1.0 - alpha_bar)
        buffers = {
            "betas": betas,
            "alphas_cumprod": alpha_bar,
            "alphas_cumprod_prev": alpha_bar_prev,
            "sqrt_alphas_cumprod": alpha_bar.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1.0 - alpha_bar).sqrt(),
            "log_one_minus_alphas_cumprod": (1.0 - alpha_bar).log(),
            "sqrt_recip_alphas_cumprod": (1.0 / alpha_bar).sqrt(),
            "sqrt_recipm1_alphas_cumprod": (1.0 / alpha_bar - 1.0).sqrt(),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
            "posterior_mean_coef1": betas * alpha_bar_prev.sqrt() / (1.0 - alpha_bar),
            "posterior_mean_coef2": (1.0 - alpha_bar_prev) * alphas.sqrt() / (1.0 - alpha_bar),
        }
        return {name: buffer.float() for name, buffer in buffers.items()}
