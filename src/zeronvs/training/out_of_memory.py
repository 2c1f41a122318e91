"""Which setting to change when the memory is used up."""

import torch

from zeronvs.training.finetune_config import FinetuneConfig


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device, or this machine, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in message or "can't allocate memory" in message
    )


def advice(config: FinetuneConfig, device: torch.device, processes: int) -> str:
    """Return one line that names the setting that makes the training smaller.

    It is the first of these that is not used yet: a smaller batch (the effective batch stays, so
    that nothing else changes), gradient checkpointing, half precision, low-rank additions, no
    average.

    Args:
        config: Settings that need too much memory.
        device: Device whose memory is too small.
        processes: Processes that train together.
    """
    where = "this machine" if device.type == "cpu" else f"the device {device}"
    smaller = [
        size
        for size in range(config.batch // 2, 0, -1)
        if config.effective_batch % (size * processes) == 0
    ]
    if smaller and config.batch > 1:
        setting = f"batch={smaller[0]} (the effective batch stays {config.effective_batch})"
    elif not config.gradient_checkpointing:
        setting = "gradient_checkpointing=True"
    elif config.mixed_precision in ("no", "auto") and device.type != "cpu":
        setting = "mixed_precision=bf16"
    elif config.lora_rank is None:
        setting = "lora_rank=16"
    elif config.ema_decay is not None:
        setting = "ema_decay=None"
    else:
        return f"the memory of {where} is used up, and every setting that saves memory is in use"
    return f"the memory of {where} is used up at batch={config.batch}; use {setting}"
