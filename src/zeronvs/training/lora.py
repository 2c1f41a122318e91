"""Training low-rank additions (LoRA, arXiv:2106.09685) to the attention layers of the U-Net.

The layers come from peft, through the door that diffusers has for it.
"""

from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs._core.optional import require

ADAPTER = "default"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
"""The attention layers that get an addition, as diffusers' own training scripts have it."""


def add_lora(unet: UNet2DConditionModel, rank: int, seed: int) -> None:
    """Freeze the U-Net and add trainable low-rank layers that change nothing yet.

    Args:
        unet: Changed in place.
        rank: Rank of each addition.
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
    """Return the state of a U-Net with its low-rank additions added in, by the stock names."""
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
    """Write the additions alone, as a U-Net of diffusers loads them.

    By `unet.load_lora_adapter(folder, prefix=None, use_safetensors=True)`. Written here because the
    method of diffusers moves the whole U-Net off its device.
    """
    peft = require("peft", "train")
    state = peft.get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    with write_aside(folder / "pytorch_lora_weights.safetensors") as aside:
        contiguous = {name: tensor.float().contiguous() for name, tensor in state.items()}
        save_file(contiguous, aside, metadata={"format": "pt"})
