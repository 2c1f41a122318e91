"""Settings of a training run, its presets (data only), and advice when the memory is used up."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from zeronvs._core.errors import InputError

PRECISIONS = ("auto", "no", "bf16", "fp16")
CHANGEABLE = (
    "steps",
    "batch",
    "gradient_checkpointing",
    "mixed_precision",
    "exports_half",
    "checkpoint_every",
    "validate_every",
    "validation_pairs",
    "validation_sampling_steps",
    "log_every",
)
"""Settings that may change when a run is resumed."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The published recipe (paper, A.1; published code, zeronvs_config.yaml), as defaults."""

    steps: int = 60_000
    """Optimiser steps; the ablations of the paper have 25,000."""
    effective_batch: int = 1536
    """Examples per step, over all processes and accumulated batches."""
    batch: int = 48
    """Examples in memory at once in one process; the rest of `effective_batch` is accumulated."""
    learning_rate: float = 1e-4
    """Peak learning rate of the U-Net."""
    projection_rate: float = 10.0
    """Learning rate of the camera projection relative to that of the U-Net."""
    weight_decay: float = 0.01
    warmup_steps: int = 100
    """The learning rate rises linearly from a millionth."""
    decay_steps: int = 0
    """The learning rate falls to 0 over the last steps, as half a cosine; 0 keeps it constant."""
    max_gradient_norm: float | None = None
    """Gradients are clipped to this norm; the published code does not clip."""
    ema_decay: float | None = 0.9999
    """Decay of the moving average of the weights, min(this, (1 + n) / (10 + n)) at update n; None
    keeps no average."""
    averages_everything: bool = False
    """Average all trained weights; the published code averages the U-Net only."""
    dropout: float = 0.05
    """Share of pairs without image embedding, the same without image channels, and without both."""
    pure_noise_share: float = 0.0
    """Share of pairs at the last timestep, where sampling starts, in addition to the others."""
    timestep_exponent: float = 1.0
    """Exponent e of the other timesteps, distributed as u^e; below 1 favours high noise."""
    max_loss_weight: float = 5.0
    """For models that predict the clean image: bound of 1 / sigma^2, the weight that turns an error
    in the image into an error in v."""
    perceptual_weight: float = 0.0
    """Weight of the perceptual term, for models that predict the clean image in pixels."""
    perceptual_crop_px: int = 64
    """Side of the windows that the perceptual term compares; drawn around holes."""
    lora_rank: int | None = None
    """Train low-rank additions to the attention layers instead of the U-Net itself."""
    trains_image_encoder: bool = False
    """Also train the image encoder, which the published code freezes."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third slower."""
    mixed_precision: str = "no"
    """no, bf16 or fp16; weights and average stay float32. auto: bf16 where the hardware is fast at
    it (see `autocast_precision`)."""
    exports_half: bool = False
    """Write the trained model in float16."""
    seed: int = 42
    """Seed of the pairs and of everything drawn for them."""
    checkpoint_every: int = 500
    """Steps between saved states."""
    validate_every: int = 500
    """Steps between validations; 0 validates never."""
    validation_pairs: int = 4
    validation_sampling_steps: int | None = None
    """DDIM steps of the validation samples; None: the model's default."""
    log_every: int = 10
    """Steps between reads of the loss (a read synchronises with the device)."""

    def check(self) -> None:
        """Refuse settings out of range.

        Raises:
            InputError: A setting is out of range; the message names it.
        """
        counts = ("steps", "effective_batch", "batch", "checkpoint_every", "log_every")
        for name in (*counts, *(["lora_rank"] if self.lora_rank is not None else [])):
            self._refuse_unless(name, getattr(self, name) >= 1, "at least 1")
        counts = ("warmup_steps", "decay_steps", "validate_every", "validation_pairs", "seed")
        for name in counts:
            self._refuse_unless(name, getattr(self, name) >= 0, "0 or more")
        for name in ("learning_rate", "projection_rate", "max_loss_weight", "timestep_exponent"):
            value = getattr(self, name)
            self._refuse_unless(name, 0 < value < float("inf"), "above 0")
        weight = self.perceptual_weight
        self._refuse_unless("perceptual_weight", 0 <= weight < float("inf"), "0 or more")
        for name in ("pure_noise_share", "ema_decay"):
            value = getattr(self, name)
            self._refuse_unless(name, value is None or 0 <= value < 1, "at least 0 and below 1")
        # A share of each of three kinds.
        self._refuse_unless("dropout", 0 <= self.dropout <= 1 / 3, "between 0 and 1/3")
        known = f"one of {', '.join(PRECISIONS)}"
        self._refuse_unless("mixed_precision", self.mixed_precision in PRECISIONS, known)

    def _refuse_unless(self, name: str, is_good: bool, requirement: str) -> None:
        if not is_good:
            raise InputError(f"{name}={getattr(self, name)} must be {requirement}")

    def accumulation(self, processes: int) -> int:
        """Return how many batches of every process make one step.

        Raises:
            InputError: The effective batch is not a whole number of them.
        """
        at_once = self.batch * processes
        if self.effective_batch % at_once:
            fitting = max(1, self.effective_batch // at_once) * at_once
            raise InputError(
                f"effective_batch={self.effective_batch} is not a multiple of batch={self.batch} "
                f"times {processes} processes. Use effective_batch={fitting}"
            )
        return self.effective_batch // at_once

    def shortened(self, steps: int) -> "FinetuneConfig":
        """Return the settings for another number of steps, warm-up and decay in proportion."""
        warmup = max(1, round(self.warmup_steps * steps / self.steps))
        decay = min(steps - warmup, round(self.decay_steps * steps / self.steps))
        return replace(self, steps=steps, warmup_steps=warmup, decay_steps=max(0, decay))

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be the same when a run is resumed."""
        return {name: value for name, value in asdict(self).items() if name not in CHANGEABLE}


def autocast_precision(device_type: str, *, cpu_capability: str, cuda_has_bf16: bool) -> str:
    """Return the precision for "auto": "bf16" where the hardware is fast at it.

    On a CPU without AVX-512, bfloat16 is emulated and up to 50 times slower than float32.

    Args:
        cpu_capability: `torch.backends.cpu.get_cpu_capability()`.
    """
    is_fast = cpu_capability == "AVX512" if device_type == "cpu" else cuda_has_bf16
    return "bf16" if device_type in ("cpu", "cuda") and is_fast else "no"


PAPER = FinetuneConfig(gradient_checkpointing=True, checkpoint_every=2500, validate_every=2500)
"""The main model of the paper: 8 GPUs x 48 pairs x 4 accumulated batches, float32."""
FINETUNE = FinetuneConfig(
    steps=2000,
    effective_batch=16,
    batch=8,
    learning_rate=3e-5,
    warmup_steps=50,
    max_gradient_norm=1.0,
    ema_decay=0.999,
    mixed_precision="auto",
    checkpoint_every=100,
    validate_every=200,
)
"""Fine-tuning of a pretrained model on a few scenes, on one GPU or a laptop."""
BUILTIN = FinetuneConfig(
    steps=20_000,
    effective_batch=8,
    batch=8,
    learning_rate=2.5e-4,
    projection_rate=1.0,
    max_gradient_norm=1.0,
    ema_decay=0.999,
    averages_everything=True,
    pure_noise_share=0.04,
    timestep_exponent=0.8,
    trains_image_encoder=True,
    mixed_precision="auto",
    exports_half=True,
    seed=0,
    checkpoint_every=200,
    validate_every=500,
)
"""The built-in denoiser on posed scenes as well."""
PHOTOGRAPHS = replace(
    BUILTIN,
    steps=2640,
    effective_batch=256,
    batch=256,
    learning_rate=3e-4,
    warmup_steps=300,
    decay_steps=1190,
    ema_decay=0.9993,
    checkpoint_every=500,
    validation_pairs=64,
)
"""The denoiser that ships with the package, from photographs alone: minutes on one GPU."""
BUILTIN_DEPTH = FinetuneConfig(
    steps=4500,
    effective_batch=16,
    batch=16,
    learning_rate=1e-3,
    warmup_steps=225,
    decay_steps=4275,
    max_gradient_norm=1.0,
    ema_decay=None,
    seed=0,
    checkpoint_every=200,
    validate_every=0,
    exports_half=True,
)
"""The depth network that ships with the package. Float32: on a CPU its convolutions are faster in
channels-last float32."""


def memory_advice(config: FinetuneConfig, device: torch.device, processes: int) -> str:
    """Return one line that names the next setting to reduce memory.

    In order: a smaller batch (at the same effective batch), gradient checkpointing, half precision,
    LoRA, no moving average.
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
