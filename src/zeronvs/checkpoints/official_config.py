"""The YAML file that lies beside a checkpoint of the original code: read, and written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_text
from zeronvs.checkpoints.architecture import Architecture

_MAX_BYTES = 2**20
_MAX_COUNT = 2**20


@dataclass(frozen=True)
class OfficialConfig:
    """A part of the file, whose values may be absent."""

    values: Mapping[str, Any]

    def section(self, *names: str) -> "OfficialConfig":
        """Return the part below these names; an empty one where it is absent."""
        values: Any = self.values
        for name in names:
            values = values.get(name, {}) if isinstance(values, Mapping) else {}
        return OfficialConfig(values if isinstance(values, Mapping) else {})

    def number(self, name: str, default: int | float) -> int | float:
        """Return a number, or the default where it is absent.

        Raises:
            InputError: The value is something else.
        """
        value = self.values.get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not -1e9 < value < 1e9:
            raise InputError(f"the configuration has {name}: {value!r}; a number is needed.")
        return value

    def count(self, name: str, default: int) -> int:
        """Return a whole number above 0, or the default where it is absent.

        Raises:
            InputError: The value is something else.
        """
        value = self.number(name, default)
        if value != int(value) or not 1 <= value <= _MAX_COUNT:
            raise InputError(f"the configuration has {name}: {value}; a whole number is needed.")
        return int(value)


class _PlainLoader(yaml.SafeLoader):
    """Reads plain values; refuses aliases, of which a few lines can make any number of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node that is no alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases (*name), which are not read")
        return super().compose_node(parent, index)


def read_official_config(path: Path) -> dict[str, Any]:
    """Read a YAML file; no tag in it can make code run.

    Raises:
        InputError: It cannot be read, or is not a mapping.
    """
    try:
        config = yaml.load(read_text(path, max_bytes=_MAX_BYTES), _PlainLoader)  # a SafeLoader
    except InputError:
        raise
    except (ValueError, RecursionError, LookupError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as YAML ({reason}).") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a configuration: it holds a {type(config).__name__}.")
    return config


def write_official_config(path: Path, architecture: Architecture) -> None:
    """Write the configuration with which the original code builds this model."""
    unet, vae, schedule = architecture.unet, architecture.vae, architecture.schedule
    params = {
        "linear_start": schedule.beta_start,
        "linear_end": schedule.beta_end,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": schedule.timesteps,
        "first_stage_key": "image_target",
        "cond_stage_key": "image_cond",
        "image_size": unet.sample_size,
        "channels": unet.out_channels,
        "cond_stage_trainable": False,
        "conditioning_key": "hybrid",
        "monitor": "val/loss_simple_ema",
        "scale_factor": vae.scaling_factor,
        "conditioning_config": {
            "params": {
                "mode": architecture.representation.official_mode,
                "embedding_dim": architecture.camera_embed_dim,
                "depth_model_name": None,
            }
        },
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": _unet_params(architecture),
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": _vae_params(architecture),
        },
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPImageEmbedder"},
    }
    model = {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}
    path.write_text(yaml.safe_dump({"model": model}, sort_keys=False), encoding="utf-8")


def _unet_params(architecture: Architecture) -> dict[str, Any]:
    unet = architecture.unet
    attended = [level for level, attention in enumerate(unet.has_attention) if attention]
    return {
        "image_size": unet.sample_size,
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "model_channels": unet.channels[0],
        "attention_resolutions": [2**level for level in reversed(attended)],
        "num_res_blocks": unet.layers_per_block,
        "channel_mult": [width // unet.channels[0] for width in unet.channels],
        "num_heads": unet.num_heads,
        "use_spatial_transformer": True,
        "transformer_depth": unet.transformer_depth,
        "context_dim": unet.cross_attention_dim,
        "use_checkpoint": False,
        "legacy": False,
    }


def _vae_params(architecture: Architecture) -> dict[str, Any]:
    vae = architecture.vae
    return {
        "embed_dim": vae.latent_channels,
        "monitor": "val/rec_loss",
        "ddconfig": {
            "double_z": True,
            "z_channels": vae.latent_channels,
            "resolution": vae.sample_size,
            "in_channels": 3,
            "out_ch": 3,
            "ch": vae.channels[0],
            "ch_mult": [width // vae.channels[0] for width in vae.channels],
            "num_res_blocks": vae.layers_per_block,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    }
