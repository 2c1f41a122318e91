"""Writing a trained model as a pipeline folder that everything else loads."""

import copy
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.training.average import WeightAverage
from zeronvs.training.lora import plain_weights, save_lora

FOLDER, LORA_FOLDER = "pipeline", "lora"


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
        average: Moving average of its weights.
        out: Run folder.
        has_lora: Whether the U-Net has low-rank additions.
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
        name: forget_source(copy.deepcopy(part).to(dtype)) if isinstance(part, nn.Module) else part
        for name, part in pipe.components.items()
    }
    return ZeroNVSPipeline(**parts)


def forget_source(part: Any) -> Any:
    """Remove the path that a component was loaded from, which diffusers would write out."""
    if isinstance(part, ModelMixin) and "_name_or_path" in part.config:
        part.register_to_config(_name_or_path="")
    return part


def _save_additions(pipe: ZeroNVSPipeline, folder: Path) -> None:
    save_lora(pipe.unet, folder)
    pipe.cc_projection.save_pretrained(folder / "cc_projection")


def replace_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Write a folder aside, then replace the previous one with it."""
    aside = folder.with_name(f".{folder.name}.part")
    before = folder.with_name(f".{folder.name}.old")
    for left in (aside, before):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    if folder.exists():
        folder.rename(before)
    aside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)
    return folder
