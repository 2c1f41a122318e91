"""The noise schedule of the released models, as configuration and as buffers in their file."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
        signal = alphas.cumprod(0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
        variance = betas * (1.0 - before) / (1.0 - signal)
        buffers = {
            "betas": betas,
            "alphas_cumprod": signal,
            "alphas_cumprod_prev": before,
            "sqrt_alphas_cumprod": signal.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1.0 - signal).sqrt(),
            "log_one_minus_alphas_cumprod": (1.0 - signal).log(),
            "sqrt_recip_alphas_cumprod": (1.0 / signal).sqrt(),
            "sqrt_recipm1_alphas_cumprod": (1.0 / signal - 1.0).sqrt(),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
            "posterior_mean_coef1": betas * before.sqrt() / (1.0 - signal),
            "posterior_mean_coef2": (1.0 - before) * alphas.sqrt() / (1.0 - signal),
        }
        return {name: buffer.float() for name, buffer in buffers.items()}
