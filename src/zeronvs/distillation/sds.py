"""Score distillation: the gradient a diffusion model has on a rendered image.

The rendered view is noised, and the model predicts the noise conditioned on the photo and the
camera. The difference between predicted and added noise is the gradient of the rendered view
(DreamFusion, arXiv:2209.14988, Eq. 3):

    g = w(t) (eps_hat(z_t; t, condition) - eps),    z_t = sqrt(a) z + sqrt(1 - a) eps,    w = 1 - a

where z is the latent of the render, a = alpha_bar_t and eps_hat carries the guidance.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronvs.diffusion.sampling import add_noise


@runtime_checkable
class NoisePredictor(Protocol):
    """Interface of a diffusion model for score distillation; `ZeroNVSPipeline` implements it."""

    @property
    def alphas_cumprod(self) -> Float[Tensor, " t"]:
        """Signal variance alpha_bar at each training timestep, decreasing."""
        ...

    def predict_noise(
        self,
        noisy_latent: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, " n"],
        camera_condition: Any,
        guidance_scale: float,
    ) -> Float[Tensor, "n c h w"]:
        """Return the predicted noise, with classifier-free guidance."""
        ...


@torch.no_grad()
def sds_gradient(
    denoiser: NoisePredictor,
    latent: Float[Tensor, "n c h w"],
    timestep: Int[Tensor, " n"],
    noise: Float[Tensor, "n c h w"],
    camera_condition: Any,
    guidance_scale: float,
) -> Float[Tensor, "n c h w"]:
    """Return the score distillation gradient on the latent, weighted by w(t) = 1 - alpha_bar_t.

    Source: paper section 4.1; published code, guidance/zero123_guidance.py.

    Args:
        denoiser: The diffusion model.
        latent: Scaled latent of the rendered views.
        timestep: Diffusion timestep per view.
        noise: Standard normal noise.
        camera_condition: Conditioning on photo and cameras, one camera per view.
        guidance_scale: Classifier-free guidance weight; 1 = none.
    """
    alpha_bar = denoiser.alphas_cumprod.to(latent)[timestep]
    noisy_latent = add_noise(latent, noise, alpha_bar)
    predicted = denoiser.predict_noise(noisy_latent, timestep, camera_condition, guidance_scale)
    return (1.0 - alpha_bar)[:, None, None, None] * (predicted.to(noise) - noise)


def sds_loss(
    latent: Float[Tensor, "n c h w"], gradient: Float[Tensor, "n c h w"]
) -> Float[Tensor, ""]:
    """Return 0.5 |z - (z - g)_sg|^2 summed and divided by the batch: d loss / d z = g / n."""
    target = (latent - gradient).detach()
    return 0.5 * (latent - target).square().sum() / latent.shape[0]


def gate_gradient(
    image: Float[Tensor, "n 3 h w"], passes: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n 3 h w"]:
    """Return `image` unchanged in value, with gradient only where `passes` (paper section 3.4)."""
    return torch.where(passes[:, None], image, image.detach())
