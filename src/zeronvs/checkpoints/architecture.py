"""The sizes of a model of the released family, and the components that have them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.diffusion.conditioning_kind import ConcatInput, ConcatWarpedImage
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.diffusion.sampling import NoiseSchedule


class _Shape:
    """Sizes of a component, stored in its configuration under other names."""

    _keys: ClassVar[dict[str, str]] = {}
    """Field name to key of the configuration, for fields whose value is the same in both."""

    def _stored(self) -> dict[str, Any]:
        return {key: getattr(self, name) for name, key in self._keys.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **others: Any) -> Any:
        """Read the sizes from a configuration; `KeyError` where one is missing."""
        return cls(**{name: config[key] for name, key in cls._keys.items()}, **others)


@dataclass(frozen=True, kw_only=True)
class UNetShape(_Shape):
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
    """Attention heads; 8 in the released models. Not encoded in the shapes of tensors."""
    sample_size: int
    """Side of a latent, in cells."""

    _keys: ClassVar = {
        "layers_per_block": "layers_per_block",
        "transformer_depth": "transformer_layers_per_block",
        "linear_projection": "use_linear_projection",
        "in_channels": "in_channels",
        "out_channels": "out_channels",
        "cross_attention_dim": "cross_attention_dim",
        # diffusers keeps the number of heads under this name (its issue 2011).
        "num_heads": "attention_head_dim",
        "sample_size": "sample_size",
    }

    def config(self) -> dict[str, Any]:
        """Return the configuration of a `UNet2DConditionModel` of these sizes."""
        kinds = ["CrossAttn" if attention else "" for attention in self.has_attention]
        return self._stored() | {
            "block_out_channels": self.channels,
            "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
            "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        }


@dataclass(frozen=True, kw_only=True)
class VaeShape(_Shape):
    """Sizes of the autoencoder."""

    channels: tuple[int, ...]
    """Width of each level, finest first."""
    layers_per_block: int
    latent_channels: int
    sample_size: int
    """Side of an image, in pixels."""
    scaling_factor: float

    _keys: ClassVar = {
        "layers_per_block": "layers_per_block",
        "latent_channels": "latent_channels",
        "sample_size": "sample_size",
        "scaling_factor": "scaling_factor",
    }

    def config(self) -> dict[str, Any]:
        """Return the configuration of an `AutoencoderKL` of these sizes."""
        levels = len(self.channels)
        return self._stored() | {
            "block_out_channels": self.channels,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
        }


@dataclass(frozen=True, kw_only=True)
class ClipShape(_Shape):
    """Sizes of CLIP's image tower."""

    width: int
    hidden: int
    layers: int
    heads: int
    """Attention heads; a head has 64 channels in every CLIP of OpenAI."""
    patch_px: int
    image_size_px: int
    projection_dim: int

    _keys: ClassVar = {
        "width": "hidden_size",
        "hidden": "intermediate_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "patch_px": "patch_size",
        "image_size_px": "image_size",
        "projection_dim": "projection_dim",
    }

    def config(self) -> dict[str, Any]:
        """Return the configuration of a `CLIPVisionConfig` of these sizes."""
        return self._stored() | {"hidden_act": "quick_gelu"}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All sizes of a model of the released family."""

    unet: UNetShape
    vae: VaeShape
    clip: ClipShape
    schedule: NoiseSchedule
    representation: Representation
    camera_embed_dim: int

    @staticmethod
    def kind_of_channels(in_channels: int, out_channels: int) -> str | None:
        """Return the kind of conditioning of a denoiser; None: none of the released family."""
        kinds = {2 * out_channels: ConcatInput.name, 2 * out_channels + 3: ConcatWarpedImage.name}
        return kinds.get(in_channels)

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
                    self.kind_of_channels(self.unet.in_channels, self.unet.out_channels),
                ),
            }
