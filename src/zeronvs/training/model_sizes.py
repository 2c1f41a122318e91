"""The sizes of a model that is to be trained, found without loading a weight."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs._core.errors import InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.checkpoints.architecture_reading import architecture_of_checkpoint
from zeronvs.checkpoints.reader import CheckpointReader
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.loading import check_pipeline_folder, pipeline_folder
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.training.denoiser import make_builtin_pipeline
from zeronvs.training.starting_weights import CHECKPOINT_SUFFIXES, SCRATCH


def hollow_pipeline(start: str, representation: Representation | None) -> ZeroNVSPipeline:
    """Return the pipeline that training would start from, without numbers (on the meta device).

    Args:
        start: As `load_start` takes it.
        representation: As `load_start` takes it.

    Raises:
        InputError: There is nothing usable by this name.
    """
    source = start.removeprefix(f"{SCRATCH}:")
    path = Path(source).expanduser()
    scheduler = DDIMScheduler()
    if source == SCRATCH:
        pipe = make_builtin_pipeline()
        parts: dict[str, Any] = {
            name: part.to("meta") if isinstance(part, nn.Module) else part
            for name, part in pipe.components.items()
        }
    elif path.is_file() and path.suffix in CHECKPOINT_SUFFIXES:
        with CheckpointReader(path) as reader:
            shapes = {name: tensor.shape for name, tensor in reader.tensors.items()}
        parts = {**architecture_of_checkpoint(shapes, {}).empty_components()}
        parts["scheduler"] = scheduler
    else:
        folder = pipeline_folder(source, {})
        check_pipeline_folder(folder, set())
        parts = _parts_of_folder(folder)
    if representation is not None:
        old = parts["cc_projection"].config
        with torch.device("meta"):
            parts["cc_projection"] = CameraProjection(
                old["image_embed_dim"],
                representation.size,
                old["cross_attention_dim"],
                str(representation),
                old.get("conditioning"),
            )
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.float()  # whatever the files hold
    return ZeroNVSPipeline(**parts)


def _parts_of_folder(folder: Path) -> dict[str, Any]:
    def config(name: str) -> dict[str, Any]:
        return json.loads((folder / name / "config.json").read_text(encoding="utf-8"))

    try:
        vae_config = config("vae")
        folds = vae_config["_class_name"] == PixelShuffleAutoencoder.__name__
        vae_class: Any = PixelShuffleAutoencoder if folds else AutoencoderKL
        with torch.device("meta"):
            clip: Any = CLIPVisionConfig(**config("image_encoder"))
            parts = {
                "vae": vae_class.from_config(vae_config),
                "image_encoder": CLIPVisionModelWithProjection(clip),
                "unet": UNet2DConditionModel.from_config(config("unet")),
                "cc_projection": CameraProjection.from_config(config("cc_projection")),
            }
        return {**parts, "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler")}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{folder} cannot be read as a pipeline ({error})") from error


@dataclass(frozen=True, kw_only=True)
class WorkOfPair:
    """What the model does for one pair."""

    forward_flops: float
    """Floating-point operations of one forward pass of the U-Net."""
    frozen_flops: float
    """Of the autoencoder, which encodes input and target, and of the image encoder."""
    activation_bytes: float
    """Numbers kept for the backward pass, in float32."""


def work_of_pair(pipe: ZeroNVSPipeline) -> WorkOfPair:
    """Count operations, and what the U-Net keeps for its backward pass, without doing anything.

    Args:
        pipe: A hollow pipeline.
    """
    config = pipe.unet.config
    side = int(config["sample_size"])
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        held.append(tensor)  # so that no address is used twice
        return tensor

    held: list[torch.Tensor] = []
    with torch.device("meta"):
        latent = torch.empty(1, config["in_channels"], side, side)
        token = torch.empty(1, 1, config["cross_attention_dim"])
        timestep = torch.zeros(1, dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        pipe.unet(latent, timestep, encoder_hidden_states=token)
    weights = {p.untyped_storage()._cdata for p in pipe.unet.parameters()}
    activations = sum(size for address, size in kept.items() if address not in weights)
    return WorkOfPair(
        forward_flops=float(counter.get_total_flops()),
        frozen_flops=_frozen_flops(pipe),
        activation_bytes=float(activations),
    )


def _frozen_flops(pipe: ZeroNVSPipeline) -> float:
    clip_size: Any = pipe.image_encoder.config.image_size
    with torch.device("meta"):
        images = torch.empty(2, 3, pipe.image_size_px, pipe.image_size_px)
        shown = torch.empty(1, 3, clip_size, clip_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipe.vae.encode(images)
        pipe.image_encoder(shown)
    return float(counter.get_total_flops())
