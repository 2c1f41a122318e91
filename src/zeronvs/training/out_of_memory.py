"""Saying which flag helps when the memory is used up."""

import torch

from zeronvs.training.finetune_config import FinetuneConfig


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or this machine, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "can't allocate memory" in said
    )


def advice(config: FinetuneConfig, device: torch.device, processes: int) -> str:
    """Return one line that says which flag makes the training smaller.

    The first of these that is not used yet: a smaller batch (the effective batch stays, so that
    nothing else changes), gradient checkpointing, half precision, low-rank additions, no average.

    Args:
        config: Settings that were too large.
        device: Whose memory was too small.
        processes: Processes that train together.
    """
    where = "this machine" if device.type == "cpu" else f"the device {device}"
    smaller = [
        size
        for size in range(config.batch // 2, 0, -1)
        if config.effective_batch % (size * processes) == 0
    ]
    if smaller and config.batch > 1:
        flag = f"--batch {smaller[0]} (the effective batch stays {config.effective_batch})"
    elif not config.gradient_checkpointing:
        flag = "--gradient-checkpointing"
    elif config.mixed_precision in ("no", "auto") and device.type != "cpu":
        flag = "--mixed-precision bf16"
    elif config.lora_rank is None:
        flag = "--lora 16"
    elif config.ema_decay is not None:
        flag = "--no-ema"
    else:
        return f"the memory of {where} is used up, and every flag that saves memory is set"
    return f"the memory of {where} is used up at --batch {config.batch}; add {flag}"
