"""Settings of training a view-conditioned denoiser, and the recipes by name."""

from dataclasses import dataclass

from zeronvs._core.errors import InputError

PRECISIONS = ("auto", "no", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The published recipe (paper, A.1; published code, zeronvs_config.yaml), as defaults."""

    steps: int = 60_000
    """Steps of the optimiser; the ablations of the paper have 25,000."""
    effective_batch: int = 1536
    """Pairs a step, over all processes and accumulated parts."""
    batch: int = 48
    """Pairs in memory at once in one process; the rest of `effective_batch` is accumulated."""
    learning_rate: float = 1e-4
    """Of the U-Net."""
    projection_rate: float = 10.0
    """Learning rate of the camera projection over that of the U-Net."""
    weight_decay: float = 0.01
    warmup_steps: int = 100
    """The learning rate rises linearly from a millionth, then stays."""
    max_gradient_norm: float | None = None
    """Gradients are shortened to this norm; the published code leaves them."""
    ema_decay: float | None = 0.9999
    """Decay of the average of the U-Net's weights, min(this, (1 + n) / (10 + n)) at update n; None
    keeps no average. The camera projection is not averaged."""
    dropout: float = 0.05
    """Share of pairs without image embedding, the same without image channels, and without both."""
    max_loss_weight: float = 5.0
    """For models that predict the clean image: bound of 1 / sigma^2, the weight that turns an error
    in the image into an error in v."""
    lora_rank: int | None = None
    """Train low-rank additions to the attention layers instead of the U-Net itself."""
    trains_image_encoder: bool = False
    """Also train the image encoder, which the published code freezes."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third slower."""
    mixed_precision: str = "no"
    """no, bf16 or fp16; weights and average stay float32. auto: bf16 on a GPU that has it, else
    what the launcher says."""
    seed: int = 42
    """Of the pairs and of everything drawn for them."""
    checkpoint_every: int = 500
    """Steps between states to go on from."""
    validate_every: int = 500
    """Steps between pictures of the validation pairs; 0 makes none."""
    validation_pairs: int = 4
    validation_sampling_steps: int | None = None
    """DDIM steps of those pictures; None takes the model's own."""
    log_every: int = 10
    """Steps between looks at the loss (reading it waits for the device)."""

    def check(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            InputError: A setting is outside its range; the message names its flag.
        """
        counts = ("steps", "effective_batch", "batch", "checkpoint_every", "log_every")
        for name in (*counts, *(["lora_rank"] if self.lora_rank is not None else [])):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"{_flag(name)} is {value}; it must be at least 1")
        for name in ("warmup_steps", "validate_every", "validation_pairs", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{_flag(name)} is {getattr(self, name)}; it must be 0 or more")
        for name in ("learning_rate", "projection_rate", "max_loss_weight"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InputError(f"{_flag(name)} is {value}; it must be above 0")
        if not 0 <= self.dropout <= 1 / 3:
            raise InputError(
                f"--dropout is {self.dropout:g}; it is the share of each of three kinds and must "
                "lie between 0 and 1/3"
            )
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"--ema-decay is {self.ema_decay:g}; it must lie between 0 and 1")
        if self.mixed_precision not in PRECISIONS:
            raise InputError(
                f"--mixed-precision is {self.mixed_precision!r}; it is {', '.join(PRECISIONS)}"
            )

    def accumulation(self, processes: int) -> int:
        """Return how many batches of every process make one step.

        Raises:
            InputError: The effective batch is not a whole number of them.
        """
        at_once = self.batch * processes
        if self.effective_batch % at_once:
            raise InputError(
                f"--effective-batch {self.effective_batch} is not a multiple of --batch "
                f"{self.batch} times {processes} processes. "
                f"Give --effective-batch {max(1, self.effective_batch // at_once) * at_once}"
            )
        return self.effective_batch // at_once


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
"""A few scenes of one's own on one GPU or a laptop, from a model that is good already."""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-").replace("lora-rank", "lora")
