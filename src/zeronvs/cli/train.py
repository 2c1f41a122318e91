"""`zeronvs train`: train or fine-tune the models of the package."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from zeronvs._core.errors import HealthError, InputError
from zeronvs.cli.arguments import Count, Number, parse

if TYPE_CHECKING:
    from zeronvs._core.progress import Progress
    from zeronvs.training.finetune_config import FinetuneConfig
    from zeronvs.training.plan import TrainingPlan
    from zeronvs.training.session import Session

Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train on shards (`zeronvs data convert` writes them); run again to resume.

    Many processes or machines: accelerate launch ... -m zeronvs.cli train (docs/cluster.md).
    """

    shards: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of shards. With --preset photographs: one folder with photos/*/NAME.jpg; with
    --preset builtin: NAME_teacher.jpg too, and posed/train/*/scene.json (docs/training.md)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the run; the trained model is its folder pipeline/."""
    preset: Literal["finetune", "paper", "builtin", "photographs"] = "finetune"
    """finetune: a few scenes of your own, one GPU or a laptop. paper: the published recipe.
    builtin: the built-in denoiser and the depth network, from posed scenes and photographs.
    photographs: the denoiser that ships with the package, from photographs alone."""
    start: Annotated[str, tyro.conf.arg(name="from", metavar="MODEL")] = "builtin"
    """builtin, a name (`zeronvs model list`), a model folder, a hub id, a checkpoint
    (zero123-xl.ckpt, zeronvs.ckpt: its average is resumed); scratch, or scratch:MODEL for a fresh
    U-Net with that model's autoencoder and image encoder."""
    representation: Name = None
    """Camera representation: 3DoF, "6DoF+1", "6DoF+1, norm", "6DoF+1, agg",
    "6DoF+1, viewer", "6DoF+1, metric", "6DoF+1, MegaScenes"; that of the model if not given."""
    mixture: Annotated[str | None, tyro.conf.arg(metavar="NAME=WEIGHT,...")] = None
    """Weights of the shard folders by name, such as co3d=.34,re10k=.33,acid=.33; equal if not
    given."""
    validation: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Shards for validation only; training pairs if not given."""
    steps: Count = None
    """Steps of the optimiser; those of the preset if not given, here and below."""
    batch: Count = None
    """Examples in memory at once, in each process."""
    effective_batch: Count = None
    """Examples per step, over all processes; what does not fit at once is accumulated."""
    learning_rate: Number = None
    """Peak learning rate of the U-Net; the camera projection's is ten times that, but with --preset
    builtin."""
    lora_rank: Annotated[int | None, tyro.conf.arg(name="lora", metavar="RANK")] = None
    """Train low-rank additions to the attention layers only: much less memory (needs peft)."""
    train_image_encoder: bool = False
    """Train the image encoder too; on with --from scratch and --preset builtin."""
    gradient_checkpointing: bool = False
    """Less memory, a third slower; always on with --preset paper."""
    mixed_precision: Annotated[
        Literal["auto", "no", "bf16", "fp16"] | None, tyro.conf.arg(metavar="KIND")
    ] = None
    """auto, no, bf16 or fp16."""
    no_ema: bool = False
    """Keep no moving average of the weights: a quarter less memory, a worse model."""
    ema_decay: Number = None
    """Decay of the moving average."""
    checkpoint_every: Count = None
    """Steps between saved states."""
    validate_every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Steps between validations; 0 for none."""
    validation_sampling_steps: Annotated[
        int | None, tyro.conf.arg(name="validation-steps", metavar="N")
    ] = None
    """DDIM steps of the validation samples; the model's own if not given."""
    overlap: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LEAST MOST")] = None
    """Draw pairs whose views overlap by this share, such as .3 .9; any pair if not given, as
    published."""
    pairs_per_frame: Number = None
    """Pairs drawn at each visit of a scene, for each of its frames; .025 is published."""
    workers: int = 0
    """Processes that load pairs, for each process that trains; 0 loads between steps."""
    tensorboard: bool = False
    """Also write events for TensorBoard, to OUT/tensorboard (needs tensorboard)."""
    device: Annotated[str | None, tyro.conf.arg(metavar="DEVICE")] = None
    """cpu or cuda; that of accelerate launch, or the best available, if not given."""
    seed: Count = None
    """The same seed draws the same pairs and the same noise."""
    dry_run: bool = False
    """Print sizes, memory and steps per hour, and stop."""
    depth_steps: Count = None
    """With --preset builtin: steps of its depth network."""


PRESETS_OF_SHARDS = ("finetune", "paper")
SHARD_FLAGS = ("mixture", "validation", "overlap", "pairs_per_frame")
"""Flags about shards, which a preset with its own data does not read."""
FLAGS = {
    "lora_rank": "lora",
    "start": "from",
    "validation_sampling_steps": "validation-steps",
    "ema_decay=None": "no-ema",
}
"""Flags whose name differs from that of the argument or setting."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and train."""
    arguments = parse(TrainArguments, words, "train")
    try:
        _train(arguments)
    except (InputError, HealthError) as error:
        raise type(error)(with_flags(str(error))) from error


def with_flags(message: str) -> str:
    """Replace `argument=value` in a message by `--argument value`."""
    message = message.replace("ema_decay=None", "--no-ema")
    names = "|".join([*FLAGS, *TrainArguments.__dataclass_fields__])
    message = re.sub(
        rf"\b({names})=(?=\S)",
        lambda match: "--" + FLAGS.get(match[1], match[1]).replace("_", "-") + " ",
        message,
    )
    return message.replace("--gradient-checkpointing True", "--gradient-checkpointing")


def _train(arguments: TrainArguments) -> None:
    from zeronvs._core.progress import silent
    from zeronvs.cli.report import print_table, progress_bar
    from zeronvs.training.session import TrainRequest, open_session

    refused = () if arguments.preset in PRESETS_OF_SHARDS else SHARD_FLAGS
    for name in refused if arguments.preset == "builtin" else (*refused, "depth_steps"):
        if getattr(arguments, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            if name == "depth_steps":
                raise InputError(f"{flag} is for --preset builtin")
            raise InputError(f"{flag} is not for --preset {arguments.preset}")
    request = TrainRequest(
        data=arguments.shards,
        out=arguments.out,
        config=_config(arguments),
        start=_start(arguments.start),
        representation=arguments.representation,
        mixture=_mixture(arguments.mixture),
        validation=arguments.validation,
        overlap=arguments.overlap,
        pairs_per_frame=arguments.pairs_per_frame,
        workers=arguments.workers,
        tensorboard=arguments.tensorboard,
        device=arguments.device,
    )
    if arguments.dry_run:
        if arguments.preset == "photographs":
            raise InputError(
                "--dry-run measures pairs of views, which --preset photographs does not train on; "
                "try --steps 2"
            )
        from zeronvs.training.plan import plan_training

        print_table(plan_rows(plan_training(request), request.config))
        return
    session = open_session(request)
    with progress_bar() as progress:
        folder = _run_session(session, arguments, progress if session.is_first else silent)
    if session.is_first:
        print(folder)


def _start(start: str) -> str:
    """Return the start with a name of the cache replaced by its folder."""
    from zeronvs.cli.resolve import model_source

    prefix = "scratch:" if start.startswith("scratch:") else ""
    name = start.removeprefix(prefix)
    return start if Path(name).is_file() else prefix + model_source(name)


def _run_session(session: "Session", arguments: TrainArguments, progress: "Progress") -> Path:
    if arguments.preset == "photographs":
        from zeronvs.training.photographs import train_on_photographs

        return train_on_photographs(session, progress=progress)
    if arguments.preset != "builtin":
        return session.train(progress)
    from dataclasses import replace

    from zeronvs.training.builtin import BuiltinPreset, train_builtin

    preset = BuiltinPreset()
    depth = replace(preset.depth, seed=session.request.config.seed)
    if arguments.depth_steps is not None:
        if arguments.depth_steps < 1:
            raise InputError(f"depth_steps={arguments.depth_steps} must be at least 1")
        depth = depth.shortened(arguments.depth_steps)
    return train_builtin(session, replace(preset, depth=depth), progress)


def _config(arguments: TrainArguments) -> "FinetuneConfig":
    """Return the preset with the given flags applied."""
    from dataclasses import replace

    from zeronvs.training.finetune_config import BUILTIN, FINETUNE, PAPER, PHOTOGRAPHS

    presets = {
        "paper": PAPER,
        "finetune": FINETUNE,
        "builtin": BUILTIN,
        "photographs": PHOTOGRAPHS,
    }
    preset = presets[arguments.preset]
    names = [name for name in vars(preset) if getattr(arguments, name, None) is not None]
    given = {name: getattr(arguments, name) for name in names}
    if arguments.preset not in PRESETS_OF_SHARDS and arguments.batch is not None:
        given.setdefault("effective_batch", arguments.batch)
    given["gradient_checkpointing"] |= preset.gradient_checkpointing
    config = replace(preset, **given)
    if arguments.no_ema:
        config = replace(config, ema_decay=None)
    if arguments.train_image_encoder or arguments.start == "scratch":
        config = replace(config, trains_image_encoder=True)
    config.check()
    return config


def _mixture(text: str | None) -> dict[str, float] | None:
    """Read NAME=WEIGHT,NAME=WEIGHT."""
    if text is None:
        return None
    weights = {}
    for part in text.split(","):
        name, equals, weight = part.partition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            equals = ""
        if not equals or not 0 < weights[name.strip()] < float("inf"):
            raise InputError(
                f"--mixture {text!r}: {part!r} is not NAME=WEIGHT with a weight above 0, such as "
                "co3d=.34,re10k=.33"
            )
    return weights


def plan_rows(plan: "TrainingPlan", config: "FinetuneConfig") -> list[tuple[str, str]]:
    """Return a plan as rows of a table."""
    giga = 1e9
    speed, whole = "a step does not fit into the memory", "-"
    if plan.seconds_per_step is not None:
        hour = 3600 / plan.seconds_per_step
        speed = f"{hour:.3g} (measured on two batches, one process)"
        whole = f"{config.steps} steps, {config.steps / hour:.3g} hours"
    accumulated = config.accumulation(1)
    return [
        ("what", "value"),
        ("model", f"{plan.parameters / 1e6:.1f} M parameters"),
        ("trained", f"{plan.trained_parameters / 1e6:.2f} M parameters"),
        (
            "examples per step",
            f"{config.effective_batch} = {config.batch} at once x {accumulated} accumulated",
        ),
        (
            "memory",
            f"{plan.state_bytes / giga:.2f} GB for weights, gradients, optimiser and average, and "
            f"activations; {plan.device} has {plan.device_bytes / giga:.2f} GB",
        ),
        ("steps per hour", speed),
        ("whole run", whole),
    ]
