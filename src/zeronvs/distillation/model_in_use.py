"""The diffusion model while a scene is distilled: frozen, its U-Net in half precision on a GPU."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.graphed import GraphedForward


@contextmanager
def model_in_use(
    pipe: ZeroNVSPipeline, *, half_precision: bool, cuda_graph: bool = False, whole: bool = False
) -> Iterator[ZeroNVSPipeline]:
    """Yield the model for the steps of a run; afterwards the caller's is as it was.

    On CUDA, with `half_precision`, the U-Net is a copy in float16, and all else is in float32: the
    published code encodes images and projects the pose outside of its autocast. What the steps do
    not use (the U-Net in float32, and unless `whole` image encoder and decoder) waits in the memory
    of the CPU. With `cuda_graph`, too, that copy is launched as CUDA graphs.
    """
    device = pipe.device
    with _frozen(pipe):
        if device.type != "cuda":
            yield pipe
            return
        idle: list[nn.Module] = []
        if not whole:
            idle = [pipe.image_encoder, getattr(pipe.vae, "decoder", nn.Identity())]
        try:
            for part in idle:
                part.to("cpu")
            if half_precision:
                half: Any = _in_half_precision(pipe.unet)
                if cuda_graph:
                    half.forward = GraphedForward(half.forward)
                idle.append(pipe.unet)
                idle[-1].to("cpu")
                components: dict[str, Any] = {**pipe.components, "unet": half}
                pipe = type(pipe)(**components)
            yield pipe
        finally:
            for part in idle:
                part.to(device)


def _in_half_precision(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a frozen copy in float16, without a second copy in float32 on the way."""
    halves = {
        id(weight): nn.Parameter(weight.detach().to(torch.float16), requires_grad=False)
        for weight in unet.parameters()
    }
    # Channels last: what the tensor cores read without rearranging it.
    half: Any = copy.deepcopy(unet, halves)
    return half.to(memory_format=torch.channels_last)


@contextmanager
def _frozen(pipe: ZeroNVSPipeline) -> Iterator[None]:
    """Disable gradients of the diffusion model's weights inside the block."""
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    thawed = [w for module in modules for w in module.parameters() if w.requires_grad]
    for weight in thawed:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in thawed:
            weight.requires_grad_(True)
