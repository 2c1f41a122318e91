"""Writing what was trained as a pipeline folder that everything else loads."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.training.average import WeightAverage
from zeronvs.training.lora import plain_weights, save_lora

FOLDER, LORA_FOLDER = "pipeline", "lora"


def export_pipeline(
    pipe: ZeroNVSPipeline, average: WeightAverage | None, out: Path, *, has_lora: bool
) -> Path:
    """Write `out/pipeline`, with the averaged weights where there are any.

    Low-rank additions are added into the weights, so that the folder needs nothing but diffusers;
    alone they go to `out/lora`, with the camera projection they were trained with.

    Returns:
        The folder of the pipeline; whole at any moment, the one before it until it is replaced.
    """
    with average.in_place() if average is not None else nullcontext():
        if not has_lora:
            return _replace(out / FOLDER, pipe.save_pretrained)
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.from_config(pipe.unet.config)
        unet.load_state_dict(plain_weights(pipe.unet), assign=True)
        parts: dict[str, Any] = {**pipe.components, "unet": unet}
        whole = ZeroNVSPipeline(**parts)
        _replace(out / LORA_FOLDER, lambda folder: _save_additions(pipe, folder))
        return _replace(out / FOLDER, whole.save_pretrained)


def _save_additions(pipe: ZeroNVSPipeline, folder: Path) -> None:
    save_lora(pipe.unet, folder)
    pipe.cc_projection.save_pretrained(folder / "cc_projection")


def _replace(folder: Path, write: Callable[[Path], None]) -> Path:
    """Write a folder aside, then put it in the place of the one before."""
    aside, before = (
        folder.with_name(f".{folder.name}.part"),
        folder.with_name(f".{folder.name}.old"),
    )
    for left in (aside, before):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    if folder.exists():
        folder.rename(before)
    aside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)
    return folder
