"""Architecture of a model from the configurations of a diffusers folder: ours, or a community's."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPVisionConfig

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json
from zeronvs.cameras.embedding import Representation
from zeronvs.checkpoints.architecture import Architecture, ClipShape, UNetShape, VaeShape
from zeronvs.checkpoints.architecture_reading import representation_of_size
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.diffusion.sampling import NoiseSchedule

PROJECTION_FOLDERS = ("cc_projection", "clip_camera_projection")
"""Names of the projection: ours and kxic/zero123-xl's, bennyguo/zero123-xl-diffusers'."""


def is_own_folder(folder: Path) -> bool:
    """Return whether a pipeline folder is one of this package, by the class of its projection.

    Raises:
        InputError: The configuration of its projection cannot be read.
    """
    path = folder / "cc_projection" / "config.json"
    return path.is_file() and _config(path).get("_class_name") == CameraProjection.__name__


def architecture_of_folder(folder: Path, projection_columns: int | None = None) -> Architecture:
    """Read the sizes from the configurations of a diffusers folder.

    Args:
        projection_columns: Numbers that the stored projection takes; needed for folders of the
            community, whose configurations say little about it. Not believed where ours does.

    Raises:
        InputError: A configuration is missing, or the model is not of the released family.
    """
    unet = _read_config(folder / "unet" / "config.json", UNet2DConditionModel)
    vae = _read_config(folder / "vae" / "config.json", AutoencoderKL)
    clip = CLIPVisionConfig().to_dict() | _config(folder / "image_encoder" / "config.json")
    scheduler = _config(folder / "scheduler" / "scheduler_config.json")
    try:
        if scheduler["beta_schedule"] != "scaled_linear":
            raise InputError(f"{folder}: the released layout has only the scaled_linear schedule.")
        if clip["hidden_act"] != "quick_gelu":
            raise InputError(
                f"{folder}: the image encoder has the activation {clip['hidden_act']!r}; the "
                "released family has CLIP of OpenAI, with quick_gelu."
            )
        if projection_columns is None:
            representation, camera_embed_dim = _own_projection(folder, unet)
        else:
            camera_embed_dim = projection_columns - clip["projection_dim"]
            representation = representation_of_size(camera_embed_dim)
        return Architecture(
            unet=UNetShape.from_config(
                unet,
                channels=tuple(unet["block_out_channels"]),
                has_attention=tuple("CrossAttn" in kind for kind in unet["down_block_types"]),
            ),
            vae=VaeShape.from_config(vae, channels=tuple(vae["block_out_channels"])),
            clip=ClipShape.from_config(clip),
            schedule=NoiseSchedule(
                beta_start=scheduler["beta_start"],
                beta_end=scheduler["beta_end"],
                timesteps=scheduler["num_train_timesteps"],
            ),
            representation=representation,
            camera_embed_dim=camera_embed_dim,
        )
    except KeyError as error:
        raise InputError(f"{folder}: a configuration lacks the value {error}.") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: a configuration has a wrong value ({error}).") from error


def _own_projection(
    folder: Path, unet: Mapping[str, Any]
) -> tuple[
    Representation,
    int,  # numbers of the camera
]:
    path = folder / "cc_projection" / "config.json"
    config = _config(path)
    _check_class(path, config, CameraProjection)
    kind = config.get("conditioning")
    released = Architecture.kind_of_channels(unet["in_channels"], unet["out_channels"])
    if released is None or kind not in (None, released):
        raise InputError(f"{folder}: only models of the released kinds fit the released layout.")
    return Representation(config["representation"]), config["camera_embed_dim"]


def _read_config(path: Path, kind: type) -> Mapping[str, Any]:
    """Read the configuration of a component of diffusers, with the defaults of what it lacks."""
    config = _config(path)
    _check_class(path, config, kind)
    parameters = inspect.signature(kind.__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return defaults | config


def _check_class(path: Path, config: Mapping[str, Any], kind: type) -> None:
    if config.get("_class_name") != kind.__name__:
        raise InputError(
            f"{path} is of a {config.get('_class_name')}; the released layout holds a "
            f"{kind.__name__}."
        )


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} is no configuration: it is a {type(config).__name__}.")
    return config
