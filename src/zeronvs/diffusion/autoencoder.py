"""Small autoencoders with the interface of `AutoencoderKL`: an exact one, and a convolutional one.

`PixelShuffleAutoencoder` folds pixels into channels, without parameters. `TinyAutoencoder` is
TAEF2 (MIT, madebyollin/taef2), a distilled autoencoder of the latent space of FLUX.2.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zeronvs._core.random import draw_noise, sent


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
        # A module without tensors has no device, no dtype and no weight file; this one has. It
        # needs no hook of offloading (`apply_forward_hook`): it folds on the device of its input.
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


class _Block(nn.Module):
    """Three convolutions with a skip; the blocks at the latent's size have a wide one as well."""

    def __init__(self, channels: int, has_pool: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, channels, 3, padding=1)]
        for _ in range(2):
            layers += [nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.conv = nn.Sequential(*layers)
        self.pool = None
        if has_pool:
            self.pool = nn.Sequential(
                nn.Conv2d(channels, 4 * channels, 1, bias=False),
                nn.GroupNorm(4, 4 * channels),
                nn.ReLU(),
                nn.Conv2d(4 * channels, channels, 1, bias=False),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        if self.pool is not None:
            features = features + self.pool(features)
        return F.relu(self.conv(features) + features)


class _SoftLimit(nn.Module):
    """Limits latents to (-3, 3)."""

    def forward(self, latent: Tensor) -> Tensor:
        """Return the latent, limited."""
        return torch.tanh(latent / 3) * 3


LEVELS = 3
"""Halvings between image and latent."""
BLOCKS_PER_LEVEL = 3


class TinyAutoencoder(ModelMixin, ConfigMixin):
    """TAEF2: 8x8 pixels to a cell of 32 channels, and back; 1.3 M parameters each way.

    Source: madebyollin/taef2 (its layers and their order are the numbers in the weights' names).
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, latent_channels: int = 32, width: int = 64, scaling_factor: float = 1.0
    ) -> None:
        """Make the autoencoder with random weights.

        Args:
            latent_channels: Channels of a latent cell.
            width: Channels of every hidden layer; a multiple of 4.
            scaling_factor: Factor that gives latents about unit variance.
        """
        super().__init__()
        encoder: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), _Block(width, False)]
        for level in range(LEVELS):
            encoder.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            encoder += [_Block(width, level == LEVELS - 1) for _ in range(BLOCKS_PER_LEVEL)]
        encoder.append(nn.Conv2d(width, latent_channels, 3, padding=1))
        decoder: list[nn.Module] = [
            _SoftLimit(),
            nn.Conv2d(latent_channels, width, 3, padding=1),
            nn.ReLU(),
        ]
        for level in range(LEVELS):
            decoder += [_Block(width, level == 0) for _ in range(BLOCKS_PER_LEVEL)]
            decoder += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, 1, 1, bias=False)]
        decoder += [_Block(width, False), nn.Conv2d(width, 3, 3, padding=1)]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)

    @apply_forward_hook
    def encode(
        self, image: Float[Tensor, "b 3 H W"], return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[ExactLatent]:
        """Encode an image in [-1, 1] (the latent is not multiplied by the scaling factor)."""
        posterior = ExactLatent(self.encoder(image * 0.5 + 0.5))
        if not return_dict:
            return (posterior,)
        return AutoencoderKLOutput(latent_dist=posterior)  # pyright: ignore[reportArgumentType]

    @apply_forward_hook
    def decode(
        self,
        latent: Float[Tensor, "b c h w"],
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Float[Tensor, "b 3 H W"]]:
        """Decode a latent (not multiplied by the scaling factor) into an image in [-1, 1]."""
        image = self.decoder(latent) * 2.0 - 1.0
        return DecoderOutput(sample=image) if return_dict else (image,)


Autoencoder = AutoencoderKL | PixelShuffleAutoencoder | TinyAutoencoder
"""The autoencoders that a pipeline can have."""


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


def latent_space(vae: Autoencoder) -> LatentSpace:
    """Return the properties of an autoencoder's latents."""
    config = vae.config
    if isinstance(vae, PixelShuffleAutoencoder):
        channels, pixels_per_cell = 3 * config["downscale"] ** 2, config["downscale"]
    elif isinstance(vae, TinyAutoencoder):
        channels, pixels_per_cell = config["latent_channels"], 2**LEVELS
    else:
        channels = config["latent_channels"]
        pixels_per_cell = 2 ** (len(config["block_out_channels"]) - 1)
    return LatentSpace(
        channels=channels,
        pixels_per_cell=pixels_per_cell,
        scaling_factor=config["scaling_factor"],
        is_exact=isinstance(vae, PixelShuffleAutoencoder),
    )


def drawn(
    posterior: Any, generator: torch.Generator | list[torch.Generator]
) -> Float[Tensor, "b c h w"]:
    """Draw latents from a posterior, as its `sample` does, without waiting for a GPU.

    Args:
        generator: On the CPU; one, or one per latent.
    """
    if isinstance(posterior, ExactLatent):
        return posterior.mean
    mean, shape = posterior.mean, tuple(posterior.mean.shape)
    if isinstance(generator, list):
        noise = draw_noise(generator, shape[1:])
    else:
        noise = torch.randn(shape, generator=generator)
    return mean + posterior.std * sent(noise.to(mean.dtype), mean.device)
