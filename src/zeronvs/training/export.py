"""Export of a trained model as a pipeline folder; low-rank additions (LoRA, arXiv:2106.09685).

LoRA layers are those of peft, added to the attention layers by diffusers' adapter interface.
"""

import copy
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs._core.optional import require
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.training.training_state import WeightAverage

FOLDER, LORA_FOLDER = "pipeline", "lora"
ADAPTER = "default"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
"""The attention layers that get an addition, as diffusers' own training scripts have it."""


def export_pipeline(
    pipe: ZeroNVSPipeline,
    average: WeightAverage | None,
    out: Path,
    *,
    has_lora: bool = False,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write `out/pipeline`, with the averaged weights if there are any.

    Low-rank additions are merged into the weights, so that the folder needs nothing but diffusers;
    alone they are written to `out/lora`, with the camera projection they were trained with.

    Args:
        pipe: The trained pipeline; left as it is.
        dtype: Precision of the written weights; None: that of the pipeline.

    Returns:
        The pipeline's folder, complete at any moment: the previous one until it is replaced.
    """
    with average.in_place() if average is not None else nullcontext():
        if not has_lora:
            return replace_folder(out / FOLDER, _in_precision(pipe, dtype).save_pretrained)
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.from_config(pipe.unet.config)
        unet.load_state_dict(plain_weights(pipe.unet), assign=True)
        parts: dict[str, Any] = {**pipe.components, "unet": unet}
        whole = ZeroNVSPipeline(**parts)
        replace_folder(out / LORA_FOLDER, lambda folder: _save_additions(pipe, folder))
        return replace_folder(out / FOLDER, _in_precision(whole, dtype).save_pretrained)


def _in_precision(pipe: ZeroNVSPipeline, dtype: torch.dtype | None) -> ZeroNVSPipeline:
    if dtype is None:
        return pipe
    parts: dict[str, Any] = {
        name: without_source_path(copy.deepcopy(part).to(dtype))
        if isinstance(part, nn.Module)
        else part
        for name, part in pipe.components.items()
    }
    return ZeroNVSPipeline(**parts)


def without_source_path(part: Any) -> Any:
    """Remove the path that a component was loaded from, which diffusers would export."""
    if isinstance(part, ModelMixin) and "_name_or_path" in part.config:
        part.register_to_config(_name_or_path="")
    return part


def _save_additions(pipe: ZeroNVSPipeline, folder: Path) -> None:
    save_lora(pipe.unet, folder)
    pipe.cc_projection.save_pretrained(folder / "cc_projection")


def replace_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Write a folder aside, then replace the previous one with it."""
    aside = folder.with_name(f".{folder.name}.part")
    previous = folder.with_name(f".{folder.name}.old")
    for stale in (aside, previous):
        shutil.rmtree(stale, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    if folder.exists():
        folder.rename(previous)
    aside.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
    return folder


def add_lora(unet: UNet2DConditionModel, rank: int, seed: int) -> None:
    """Freeze the U-Net and add trainable low-rank layers that change nothing yet.

    Args:
        seed: Seed of the first factor of each addition; the second is zero.

    Raises:
        InputError: The U-Net has no attention.
        ImportError: peft is not installed; the message has the command.
    """
    peft = require("peft", "train")
    unet.requires_grad_(False)
    if not any(name.endswith("to_q") for name, _ in unet.named_modules()):
        raise InputError("lora_rank: this U-Net has no attention layers to add to; train it whole")
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(config, adapter_name=ADAPTER)


def plain_weights(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Return the state dict of a U-Net with its LoRA weights merged, by the original names."""
    state = unet.state_dict()
    additions = {
        f"{name}.weight": module.get_delta_weight(ADAPTER)
        for name, module in unet.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    plain = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        stock = name.replace(".base_layer.", ".")
        plain[stock] = tensor + additions[stock].to(tensor) if stock in additions else tensor
    return plain


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the LoRA weights alone.

    Load with `unet.load_lora_adapter(folder, prefix=None, use_safetensors=True)`. Implemented here
    because the method of diffusers moves the whole U-Net off its device.
    """
    peft = require("peft", "train")
    state = peft.get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    with write_aside(folder / "pytorch_lora_weights.safetensors") as aside:
        contiguous = {name: tensor.float().contiguous() for name, tensor in state.items()}
        save_file(contiguous, aside, metadata={"format": "pt"})
