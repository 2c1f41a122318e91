"""`zeronvs train`: train or fine-tune the view-conditioned model on shards of posed frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import Count, Number, parse

if TYPE_CHECKING:
    from zeronvs.training.finetune_config import FinetuneConfig
    from zeronvs.training.plan import TrainingPlan

Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train on shards (`zeronvs data convert` writes them); run again to go on where it stopped.

    Many processes or machines: accelerate launch ... -m zeronvs.cli train (docs/cluster.md).
    """

    shards: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of shards. With --preset builtin: one folder with posed/train/*/scene.json and
    photos/*/NAME.jpg with NAME_teacher.jpg (docs/training.md)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the run; the trained model is its folder pipeline/."""
    preset: Literal["finetune", "paper", "builtin"] = "finetune"
    """finetune: a few scenes of your own, one GPU or a laptop. paper: the published recipe.
    builtin: how the model was made that ships with the package."""
    start: Annotated[str, tyro.conf.arg(name="from", metavar="MODEL")] = "builtin"
    """builtin, a model folder, a hub id, a checkpoint (zero123-xl.ckpt, zeronvs.ckpt); scratch, or
    scratch:MODEL for a fresh U-Net beside that model's autoencoder and image encoder."""
    representation: Name = None
    """What the model is told of cameras: 3DoF, "6DoF+1", "6DoF+1, norm", "6DoF+1, agg",
    "6DoF+1, viewer", "6DoF+1, metric"; that of the model if not given."""
    mixture: Annotated[str | None, tyro.conf.arg(metavar="NAME=WEIGHT,...")] = None
    """Weights of the shard folders by name, such as co3d=.34,re10k=.33,acid=.33; equal if not
    given."""
    validation: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Shards that are only looked at; without it the pictures are of training pairs."""
    steps: Count = None
    """Steps of the optimiser; those of the preset if not given, here and below."""
    batch: Count = None
    """Pairs in memory at once, in each process."""
    effective_batch: Count = None
    """Pairs a step, over all processes; what does not fit at once is accumulated."""
    learning_rate: Number = None
    """Of the U-Net; the camera projection's is ten times that."""
    lora: Annotated[int | None, tyro.conf.arg(metavar="RANK")] = None
    """Train low-rank additions to the attention layers only: much less memory (needs peft)."""
    train_image_encoder: bool = False
    """Train the image encoder too; on with --from scratch."""
    gradient_checkpointing: bool = False
    """Less memory, a third slower; always on with --preset paper."""
    mixed_precision: Annotated[
        Literal["auto", "no", "bf16", "fp16"] | None, tyro.conf.arg(metavar="KIND")
    ] = None
    """auto, no, bf16 or fp16."""
    no_ema: bool = False
    """Keep no average of the weights: a quarter less memory, a worse model."""
    ema_decay: Number = None
    """Decay of the average."""
    checkpoint_every: Count = None
    """Steps between states to go on from."""
    validate_every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Steps between pictures; 0 makes none."""
    validation_steps: Count = None
    """DDIM steps of those pictures; the model's own if not given."""
    overlap: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LEAST MOST")] = None
    """Draw pairs that see this much of each other, such as .3 .9; any pair if not given, as
    published."""
    pairs_per_frame: Number = None
    """Pairs drawn at each visit of a scene, for each of its frames; .025 is published."""
    workers: int = 0
    """Processes that load pairs, for each process that trains; 0 loads between steps."""
    tensorboard: bool = False
    """Also write events for TensorBoard, to OUT/tensorboard (needs tensorboard)."""
    device: Annotated[str | None, tyro.conf.arg(metavar="DEVICE")] = None
    """cpu or cuda; the best one here if not given, or what accelerate launch says."""
    seed: Count = None
    """The same seed draws the same pairs and the same noise."""
    dry_run: bool = False
    """Print sizes, memory and steps an hour, and stop."""
    depth_steps: Count = None
    """With --preset builtin: steps of its depth network."""


BUILTIN_FLAGS = ("steps", "batch", "learning_rate", "depth_steps")
"""Flags that --preset builtin understands, beside --seed and --from."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and train."""
    arguments = parse(TrainArguments, words, "train")
    if arguments.preset == "builtin":
        _train_builtin(arguments)
        return
    if arguments.depth_steps is not None:
        raise InputError("--depth-steps is for --preset builtin")
    from zeronvs.training.session import TrainRequest, open_session

    request = TrainRequest(
        shards=arguments.shards,
        out=arguments.out,
        config=_config(arguments),
        start=arguments.start,
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
        _dry_run(request)
        return
    from zeronvs._core.progress import silent
    from zeronvs.cli.report import progress_bar

    session = open_session(request)
    if not session.is_first:
        session.train(silent)
        return
    with progress_bar() as progress:
        folder = session.train(progress)
    print(folder)


def _config(arguments: TrainArguments) -> "FinetuneConfig":
    """Return the preset with the flags that were given put in."""
    from dataclasses import replace

    from zeronvs.training.finetune_config import FINETUNE, PAPER

    preset = PAPER if arguments.preset == "paper" else FINETUNE
    given = {
        "steps": arguments.steps,
        "batch": arguments.batch,
        "effective_batch": arguments.effective_batch,
        "learning_rate": arguments.learning_rate,
        "lora_rank": arguments.lora,
        "mixed_precision": arguments.mixed_precision,
        "ema_decay": arguments.ema_decay,
        "checkpoint_every": arguments.checkpoint_every,
        "validate_every": arguments.validate_every,
        "validation_sampling_steps": arguments.validation_steps,
        "seed": arguments.seed,
    }
    config = replace(preset, **{name: value for name, value in given.items() if value is not None})
    if arguments.no_ema:
        config = replace(config, ema_decay=None)
    if arguments.gradient_checkpointing:
        config = replace(config, gradient_checkpointing=True)
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


def _dry_run(request: object) -> None:
    from zeronvs.cli.report import print_table
    from zeronvs.training.session import TrainRequest, plan_of

    assert isinstance(request, TrainRequest)
    print_table(plan_rows(plan_of(request), request.config))


def plan_rows(plan: "TrainingPlan", config: "FinetuneConfig") -> list[tuple[str, str]]:
    """Return a plan as rows of a table."""
    giga = 1e9
    hour = 3600 / plan.seconds_per_step
    how = "measured on two batches" if plan.measured else "estimated from the model's operations"
    share = plan.memory_bytes / plan.device_bytes
    fits = "fits" if share < 0.9 else "does not fit" if share > 1 else "barely fits"
    return [
        ("what", "value"),
        ("model", f"{plan.parameters / 1e6:.1f} M parameters"),
        ("trained", f"{plan.trained_parameters / 1e6:.2f} M parameters"),
        (
            "pairs a step",
            f"{config.effective_batch} = {config.batch} at once in each process x "
            f"{plan.accumulation} accumulated",
        ),
        ("weights", f"{plan.weight_bytes / giga:.2f} GB"),
        ("gradients", f"{plan.gradient_bytes / giga:.2f} GB"),
        ("optimiser", f"{plan.optimizer_bytes / giga:.2f} GB"),
        ("average", f"{plan.average_bytes / giga:.2f} GB"),
        ("activations", f"{plan.activation_bytes / giga:.2f} GB"),
        (
            "memory",
            f"{plan.memory_bytes / giga:.2f} GB of the {plan.device_bytes / giga:.2f} GB of "
            f"{plan.device}: {fits} (estimated)",
        ),
        ("steps an hour", f"{hour:.3g} ({how})"),
        ("whole run", f"{config.steps} steps, {config.steps / hour:.3g} hours"),
    ]


def _train_builtin(arguments: TrainArguments) -> None:
    """Train the model that ships with the package, from a folder of data."""
    defaults = {name: field.default for name, field in TrainArguments.__dataclass_fields__.items()}
    allowed = {"shards", "out", "preset", "seed", "start", *BUILTIN_FLAGS}
    for name, default in defaults.items():
        if name not in allowed and getattr(arguments, name) != default:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is not for --preset builtin")
    if len(arguments.shards) != 1:
        raise InputError("--preset builtin takes one folder of data (docs/training.md)")
    from dataclasses import replace

    from zeronvs.cli.arguments import check_counts
    from zeronvs.cli.report import progress_bar
    from zeronvs.training.builtin import BuiltinTrainingConfig, export_builtin, train_builtin

    check_counts(**{name: getattr(arguments, name) for name in BUILTIN_FLAGS[:2]})
    check_counts(depth_steps=arguments.depth_steps)
    out = arguments.out
    config = BuiltinTrainingConfig()
    given = {name: getattr(arguments, name) for name in BUILTIN_FLAGS[:3]}
    given = {name: value for name, value in given.items() if value is not None}
    depth = {} if arguments.depth_steps is None else {"steps": arguments.depth_steps}
    config = replace(
        config,
        depth=replace(config.depth, seed=arguments.seed or 0, **depth),
        denoiser=replace(config.denoiser, seed=arguments.seed or 0, **given),
    )
    start = None
    if arguments.start != "scratch":
        from zeronvs.diffusion.pipeline import ZeroNVSPipeline

        start = ZeroNVSPipeline.from_pretrained(arguments.start)
    with progress_bar() as progress:
        pipe, depth_net = train_builtin(arguments.shards[0], out, config, progress, start=start)
    export_builtin(pipe, depth_net, out)
    print(out / "pipeline")
