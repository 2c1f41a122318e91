"""Architecture of a model from a checkpoint's tensors and YAML file, and that YAML file."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_text
from zeronvs.cameras.embedding import Representation, representation_from_official
from zeronvs.checkpoints.architecture import Architecture, ClipShape, UNetShape, VaeShape
from zeronvs.diffusion.sampling import NoiseSchedule

_MAX_BYTES = 2**20
_MAX_COUNT = 2**20
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each official tensor, by name."""
_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_CLIP = "cond_stage_model.model.visual."
MEGASCENES_KEY = "extra_layer_config"
"""Entry of a YAML file that only the code of MegaScenes reads: its layer `cc_projection`."""


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
    """Reads plain values; refuses aliases, which can expand exponentially."""

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
        **_projection_params(architecture),
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


def _projection_params(architecture: Architecture) -> dict[str, Any]:
    """Return the entry on the embedding of cameras, in the form of the code that reads it."""
    if architecture.representation is Representation.SIX_DOF_MEGASCENES:
        columns = architecture.clip.projection_dim + architecture.camera_embed_dim
        width = architecture.unet.cross_attention_dim
        params = {"in_features": columns, "out_features": width}
        return {MEGASCENES_KEY: {"target": "torch.nn.Linear", "params": params}}
    params = {
        "mode": architecture.representation.official_mode,
        "embedding_dim": architecture.camera_embed_dim,
        "depth_model_name": None,
    }
    return {"conditioning_config": {"params": params}}


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


def is_of_megascenes(shapes: Shapes, config: Mapping[str, Any]) -> bool:
    """Return whether tensors or YAML are those of MegaScenes' fine-tunes.

    Its code configures the projection by another entry, and concatenates the warped input as an
    image (MegaScenes/nvs, configs/*/config.yaml: 11 input channels).
    """
    params = OfficialConfig(config).section("model", "params").values
    first = shapes.get(f"{_UNET}input_blocks.0.0.weight", ())
    last = shapes.get(f"{_UNET}out.2.weight", ())
    has_image = len(first) == 4 and len(last) == 4 and first[1] == 2 * last[0] + 3
    return MEGASCENES_KEY in params or has_image


def architecture_of_checkpoint(
    shapes: Shapes,
    config: Mapping[str, Any],
    *,
    of_megascenes: bool = False,
    notes: list[str] | None = None,
) -> Architecture:
    """Infer the sizes from the tensors of a checkpoint, and the remaining ones from its YAML.

    Args:
        shapes: Shape of every tensor of the `state_dict`.
        config: Contents of the YAML file that came with the checkpoint; may be empty, and then
            the values of the released models are taken.
        of_megascenes: Whether cameras are embedded as MegaScenes does where the YAML says nothing.
        notes: Gets one line where tensors and YAML disagree.

    Raises:
        InputError: Tensors are missing, or the model is not of the released family.
    """
    params = OfficialConfig(config).section("model", "params")
    unet = _unet_shape(shapes, params)
    clip = _clip_shape(shapes)
    vae = _vae_shape(shapes, float(params.number("scale_factor", 0.18215)), unet.sample_size)
    width = _shape(shapes, "cc_projection.weight", 2)[1]
    camera_embed_dim = width - clip.projection_dim
    mode = params.section("conditioning_config", "params").values.get("mode")
    named = None if mode is None else representation_from_official(str(mode))
    if named is not None and named.size != camera_embed_dim and notes is not None:
        notes.append(
            f"its YAML file names the cameras {mode} ({named.size} numbers); the weights take "
            f"{camera_embed_dim}, which decides"
        )
    representation = representation_of_size(camera_embed_dim, named, of_megascenes=of_megascenes)
    schedule = NoiseSchedule(
        beta_start=float(params.number("linear_start", 0.00085)),
        beta_end=float(params.number("linear_end", 0.012)),
        timesteps=params.count("timesteps", 1000),
    )
    return Architecture(
        unet=unet,
        vae=vae,
        clip=clip,
        schedule=schedule,
        representation=representation,
        camera_embed_dim=camera_embed_dim,
    )


def representation_of_size(
    camera_embed_dim: int, named: Representation | None = None, *, of_megascenes: bool = False
) -> Representation:
    """Return the camera representation of a projection: what is named, where that fits the weights.

    Args:
        camera_embed_dim: Columns of the projection beyond those of the image embedding.

    Raises:
        InputError: No representation has as many numbers.
    """
    default = Representation.SIX_DOF_MEGASCENES if of_megascenes else Representation.SIX_DOF_VIEWER
    for representation in (named, default, Representation.THREE_DOF):
        if representation is not None and representation.size == camera_embed_dim:
            return representation
    raise InputError(
        f"cc_projection takes {camera_embed_dim} numbers of the camera beside those of the image; "
        f"the released family has {Representation.THREE_DOF.size} or {default.size}."
    )


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != axes:
        seen = "is missing" if shape is None else f"has shape {tuple(shape)}"
        raise InputError(
            f"this is not a checkpoint of ZeroNVS or Zero-1-to-3: its tensor {name} {seen}."
        )
    return shape


def _count(shapes: Shapes, pattern: str) -> int:
    """Count the distinct values of the pattern's group over all names."""
    expression = re.compile(pattern)
    return len({match[1] for name in shapes if (match := expression.match(name))})


def _unet_shape(shapes: Shapes, model_params: OfficialConfig) -> UNetShape:
    params = model_params.section("unet_config", "params")
    first = _shape(shapes, f"{_UNET}input_blocks.0.0.weight", 4)
    out_channels = _shape(shapes, f"{_UNET}out.2.weight", 4)[0]
    blocks = _count(shapes, rf"{re.escape(_UNET)}input_blocks\.(\d+)\.")
    levels: list[list[int]] = [[]]
    for index in range(1, blocks):
        if f"{_UNET}input_blocks.{index}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(index)
    layers = len(levels[0])
    if not layers or any(len(level) != layers for level in levels):
        raise InputError("the checkpoint's denoiser does not have the same layers at every level.")
    channels, attention = [], []
    for level in levels:
        name = f"{_UNET}input_blocks.{level[0]}.0.in_layers.2.weight"
        channels.append(_shape(shapes, name, 4)[0])
        attention.append(f"{_UNET}input_blocks.{level[0]}.1.proj_in.weight" in shapes)
    middle = f"{_UNET}middle_block.1."
    projection = shapes.get(f"{middle}proj_in.weight", ())
    to_key = _shape(shapes, f"{middle}transformer_blocks.0.attn2.to_k.weight", 2)
    depth = _count(shapes, rf"{re.escape(middle)}transformer_blocks\.(\d+)\.")
    return UNetShape(
        channels=tuple(channels),
        has_attention=tuple(attention),
        layers_per_block=layers,
        transformer_depth=depth,
        linear_projection=len(projection) == 2,
        in_channels=first[1],
        out_channels=out_channels,
        cross_attention_dim=to_key[1],
        num_heads=_num_heads(params),
        sample_size=params.count("image_size", 32),
    )


def _num_heads(params: OfficialConfig) -> int:
    if params.number("num_head_channels", -1) > 0:
        raise InputError(
            "the configuration sets num_head_channels; the released family has one number of "
            "heads (num_heads) at every level."
        )
    return params.count("num_heads", 8)


def _vae_shape(shapes: Shapes, scaling_factor: float, latent_size: int) -> VaeShape:
    root = f"{_VAE}encoder.down"
    levels = _count(shapes, rf"{re.escape(root)}\.(\d+)\.block\.")
    layers = _count(shapes, rf"{re.escape(root)}\.0\.block\.(\d+)\.")
    if _count(shapes, rf"{re.escape(_VAE)}(?:en|de)coder\.(?:down|up)\.\d+\.attn\.(\d+)\."):
        raise InputError("the checkpoint's autoencoder has attention outside its middle block.")
    channels = tuple(
        _shape(shapes, f"{root}.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)
    )
    return VaeShape(
        channels=channels,
        layers_per_block=layers,
        latent_channels=_shape(shapes, f"{_VAE}post_quant_conv.weight", 4)[0],
        sample_size=latent_size * 2 ** max(levels - 1, 0),
        scaling_factor=scaling_factor,
    )


def _clip_shape(shapes: Shapes) -> ClipShape:
    patches = _shape(shapes, f"{_CLIP}conv1.weight", 4)
    positions = _shape(shapes, f"{_CLIP}positional_embedding", 2)[0] - 1
    hidden = _shape(shapes, f"{_CLIP}transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    return ClipShape(
        width=patches[0],
        hidden=hidden,
        layers=_count(shapes, rf"{re.escape(_CLIP)}transformer\.resblocks\.(\d+)\."),
        heads=max(patches[0] // 64, 1),
        patch_px=patches[-1],
        image_size_px=math.isqrt(positions) * patches[-1],
        projection_dim=_shape(shapes, f"{_CLIP}proj", 2)[1],
    )
