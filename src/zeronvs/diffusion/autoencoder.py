"""A lossless autoencoder without parameters: pixels are folded into channels."""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class ExactLatent:
    """Delta distribution with the interface of a posterior: mode and samples are the latent."""

    def __init__(self, latent: Float[Tensor, "b c h w"]) -> None:
        self.mean = latent

    def mode(self) -> Float[Tensor, "b c h w"]:
        """Return the latent."""
        return self.mean

    def sample(
        self, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Return the latent; it is not random."""
        return self.mean


class PixelShuffleAutoencoder(ModelMixin, ConfigMixin):
    """Folds `downscale` x `downscale` pixels into channels, and back, exactly.

    It has the part of the interface of `AutoencoderKL` that the pipeline uses, so that a small
    model can work on pixels without an autoencoder of its own to train.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, downscale: int = 4, scaling_factor: float = 2.0) -> None:
        """Make the autoencoder.

        Args:
            downscale: Pixels per latent cell along each axis.
            scaling_factor: Factor that gives latents about unit variance.
        """
        super().__init__()
        # A module without tensors has no device, no dtype and no weight file; this one has.
        self.register_buffer("marker", torch.zeros(1))

    def encode(
        self, image: Float[Tensor, "b 3 H W"], return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[ExactLatent]:
        """Fold an image in [-1, 1] into a latent (not multiplied by the scaling factor)."""
        posterior = ExactLatent(F.pixel_unshuffle(image, self.config["downscale"]))
        if not return_dict:
            return (posterior,)
        return AutoencoderKLOutput(latent_dist=posterior)  # pyright: ignore[reportArgumentType]

    def decode(
        self,
        latent: Float[Tensor, "b c h w"],
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Float[Tensor, "b 3 H W"]]:
        """Unfold a latent (not multiplied by the scaling factor) into an image in [-1, 1]."""
        image = F.pixel_shuffle(latent, self.config["downscale"])
        return DecoderOutput(sample=image) if return_dict else (image,)


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """The latents of an autoencoder."""

    channels: int
    pixels_per_cell: int
    """Pixels per latent cell along each axis."""
    scaling_factor: float
    """Latents times this have about unit variance."""
    is_exact: bool
    """Whether decoding returns the encoded image; arithmetic then stays in float32."""


def latent_space(vae: AutoencoderKL | PixelShuffleAutoencoder) -> LatentSpace:
    """Return the properties of an autoencoder's latents."""
    config, is_exact = vae.config, isinstance(vae, PixelShuffleAutoencoder)
    return LatentSpace(
        channels=3 * config["downscale"] ** 2 if is_exact else config["latent_channels"],
        pixels_per_cell=(
            config["downscale"] if is_exact else 2 ** (len(config["block_out_channels"]) - 1)
        ),
        scaling_factor=config["scaling_factor"],
        is_exact=is_exact,
    )
