"""Finding out the sizes of a model: from a checkpoint's tensors, or from a diffusers folder."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json
from zeronvs.cameras.embedding import Representation, representation_from_official
from zeronvs.checkpoints.architecture import Architecture, ClipShape, UNetShape, VaeShape
from zeronvs.checkpoints.official_config import OfficialConfig
from zeronvs.diffusion.conditioning_kind import ConcatInput
from zeronvs.diffusion.noise_schedule import NoiseSchedule

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each official tensor, by name."""

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_CLIP = "cond_stage_model.model.visual."


def architecture_of_checkpoint(shapes: Shapes, config: Mapping[str, Any]) -> Architecture:
    """Infer the sizes from the tensors of a checkpoint, and what they do not tell from its YAML.

    Args:
        shapes: Shape of every tensor of the `state_dict`.
        config: Contents of the YAML file that came with the checkpoint; may be empty, and then
            the values of the released models are taken.

    Raises:
        InputError: Tensors are missing, or the model is not of the released family.
    """
    params = OfficialConfig(config).section("model", "params")
    unet = _unet_shape(shapes, params.section("unet_config", "params"))
    clip = _clip_shape(shapes)
    vae = _vae_shape(shapes, float(params.number("scale_factor", 0.18215)), unet.sample_size)
    width = _shape(shapes, "cc_projection.weight", 2)[1]
    camera_embed_dim = width - clip.projection_dim
    mode = params.section("conditioning_config", "params").values.get("mode")
    if camera_embed_dim == Representation.THREE_DOF.size:
        representation = Representation.THREE_DOF
    else:
        representation = representation_from_official(str(mode or "7dof_quantile_scale"))
    if representation.size != camera_embed_dim:
        raise InputError(
            f"cc_projection takes {width} numbers: {clip.projection_dim} of the image and "
            f"{camera_embed_dim} of the camera; {representation} has {representation.size}."
        )
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


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != axes:
        seen = "is missing" if shape is None else f"has shape {tuple(shape)}"
        raise InputError(
            f"this is not a checkpoint of ZeroNVS or Zero-1-to-3: its tensor {name} {seen}."
        )
    return shape


def _count(shapes: Shapes, pattern: str) -> int:
    """Count the different numbers that stand in the place of the pattern's group."""
    expression = re.compile(pattern)
    return len({match[1] for name in shapes if (match := expression.match(name))})


def _unet_shape(shapes: Shapes, params: OfficialConfig) -> UNetShape:
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


def architecture_of_folder(folder: Path) -> Architecture:
    """Read the sizes from the configurations of a diffusers folder.

    Raises:
        InputError: A configuration is missing, or the model is not of the released family.
    """
    unet = _read_config(folder / "unet" / "config.json", "UNet2DConditionModel")
    vae = _read_config(folder / "vae" / "config.json", "AutoencoderKL")
    clip = _read_config(folder / "image_encoder" / "config.json", None)
    projection = _read_config(folder / "cc_projection" / "config.json", "CameraProjection")
    scheduler = _read_config(folder / "scheduler" / "scheduler_config.json", "DDIMScheduler")
    try:
        kind = projection.get("conditioning") or ConcatInput.name
        if kind != ConcatInput.name or unet["in_channels"] != 2 * unet["out_channels"]:
            raise InputError(f"{folder}: only models of the released kind fit the released layout.")
        if scheduler["beta_schedule"] != "scaled_linear":
            raise InputError(f"{folder}: the released layout has only the scaled_linear schedule.")
        return Architecture(
            unet=_unet_of_config(unet),
            vae=VaeShape(
                channels=tuple(vae["block_out_channels"]),
                layers_per_block=vae["layers_per_block"],
                latent_channels=vae["latent_channels"],
                sample_size=vae["sample_size"],
                scaling_factor=vae["scaling_factor"],
            ),
            clip=ClipShape(
                width=clip["hidden_size"],
                hidden=clip["intermediate_size"],
                layers=clip["num_hidden_layers"],
                heads=clip["num_attention_heads"],
                patch_px=clip["patch_size"],
                image_size_px=clip["image_size"],
                projection_dim=clip["projection_dim"],
            ),
            schedule=NoiseSchedule(
                beta_start=scheduler["beta_start"],
                beta_end=scheduler["beta_end"],
                timesteps=scheduler["num_train_timesteps"],
            ),
            representation=Representation(projection["representation"]),
            camera_embed_dim=projection["camera_embed_dim"],
        )
    except KeyError as error:
        raise InputError(f"{folder}: a configuration lacks the value {error}.") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: a configuration has a wrong value ({error}).") from error


def _unet_of_config(config: Mapping[str, Any]) -> UNetShape:
    return UNetShape(
        channels=tuple(config["block_out_channels"]),
        has_attention=tuple("CrossAttn" in kind for kind in config["down_block_types"]),
        layers_per_block=config["layers_per_block"],
        transformer_depth=config["transformer_layers_per_block"],
        linear_projection=config["use_linear_projection"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        cross_attention_dim=config["cross_attention_dim"],
        num_heads=config["attention_head_dim"],
        sample_size=config["sample_size"],
    )


def _read_config(path: Path, class_name: str | None) -> Mapping[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} is no configuration: it is a {type(config).__name__}.")
    if class_name is not None and config.get("_class_name") != class_name:
        raise InputError(
            f"{path} is of a {config.get('_class_name')}; the released layout holds a {class_name}."
        )
    return config
