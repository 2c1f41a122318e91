"""The sizes of a model of the released family, and the components that have them."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.diffusion.conditioning_kind import ConcatInput
from zeronvs.diffusion.noise_schedule import NoiseSchedule
from zeronvs.diffusion.projection import CameraProjection


@dataclass(frozen=True, kw_only=True)
class UNetShape:
    """Sizes of the denoiser."""

    channels: tuple[int, ...]
    """Width of each level, finest first."""
    has_attention: tuple[bool, ...]
    """Whether each level has cross-attention."""
    layers_per_block: int
    transformer_depth: int
    linear_projection: bool
    in_channels: int
    out_channels: int
    cross_attention_dim: int
    num_heads: int
    """Attention heads; 8 in the released models. Tensors do not tell."""
    sample_size: int
    """Side of a latent, in cells."""

    def config(self) -> dict[str, Any]:
        """Return what makes a `UNet2DConditionModel` of these sizes."""
        kinds = ["CrossAttn" if attention else "" for attention in self.has_attention]
        return {
            "sample_size": self.sample_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.channels,
            "layers_per_block": self.layers_per_block,
            "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
            "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            "cross_attention_dim": self.cross_attention_dim,
            # diffusers keeps the number of heads under this name (its issue 2011).
            "attention_head_dim": self.num_heads,
            "transformer_layers_per_block": self.transformer_depth,
            "use_linear_projection": self.linear_projection,
        }


@dataclass(frozen=True, kw_only=True)
class VaeShape:
    """Sizes of the autoencoder."""

    channels: tuple[int, ...]
    """Width of each level, finest first."""
    layers_per_block: int
    latent_channels: int
    sample_size: int
    """Side of an image, in pixels."""
    scaling_factor: float

    def config(self) -> dict[str, Any]:
        """Return what makes an `AutoencoderKL` of these sizes."""
        levels = len(self.channels)
        return {
            "block_out_channels": self.channels,
            "layers_per_block": self.layers_per_block,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "latent_channels": self.latent_channels,
            "sample_size": self.sample_size,
            "scaling_factor": self.scaling_factor,
        }


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """Sizes of CLIP's image tower."""

    width: int
    hidden: int
    layers: int
    heads: int
    """Attention heads; a head has 64 channels in every CLIP of OpenAI."""
    patch_px: int
    image_size_px: int
    projection_dim: int

    def config(self) -> dict[str, Any]:
        """Return what makes a `CLIPVisionConfig` of these sizes."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "patch_size": self.patch_px,
            "image_size": self.image_size_px,
            "projection_dim": self.projection_dim,
            "hidden_act": "quick_gelu",
        }


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All sizes of a model of the released family."""

    unet: UNetShape
    vae: VaeShape
    clip: ClipShape
    schedule: NoiseSchedule
    representation: Representation
    camera_embed_dim: int

    def empty_components(self) -> dict[str, nn.Module]:
        """Return the components without memory for their tensors (on the meta device).

        Raises:
            InputError: No model has these sizes.
        """
        try:
            self._check_sizes()
            return self._empty_components()
        except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"the sizes of the model fit no model: {reason}") from error

    def _check_sizes(self) -> None:
        """Refuse sizes that would take memory or time without end."""
        widths = (*self.unet.channels, *self.vae.channels, self.unet.in_channels)
        widths += (self.unet.out_channels, self.unet.cross_attention_dim, self.vae.latent_channels)
        widths += (self.clip.width, self.clip.hidden, self.clip.projection_dim)
        sides = (self.unet.sample_size, self.vae.sample_size, self.clip.image_size_px)
        counts = (self.unet.layers_per_block, self.unet.transformer_depth, self.unet.num_heads)
        counts += (self.vae.layers_per_block, self.clip.layers, self.clip.heads)
        counts += (len(self.unet.channels), len(self.vae.channels), self.clip.patch_px)
        limits = ((widths, 2**16), (sides, 2**14), (counts, 256))
        limits += (((self.camera_embed_dim,), 2**12), ((self.schedule.timesteps,), 2**20))
        for values, limit in limits:
            for value in values:
                if not (isinstance(value, int) and 1 <= value <= limit):
                    raise ValueError(f"{str(value)[:40]} is not a whole number from 1 to {limit}")

    def _empty_components(self) -> dict[str, nn.Module]:
        with torch.device("meta"):
            clip_config: Any = CLIPVisionConfig(**self.clip.config())
            return {
                "unet": UNet2DConditionModel(**self.unet.config()),
                "vae": AutoencoderKL(**self.vae.config()),
                "image_encoder": CLIPVisionModelWithProjection(clip_config),
                "cc_projection": CameraProjection(
                    self.clip.projection_dim,
                    self.camera_embed_dim,
                    self.unet.cross_attention_dim,
                    str(self.representation),
                    ConcatInput.name,
                ),
            }
