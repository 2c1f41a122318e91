"""From what a user asks for to a run: processes, starting weights, pairs, validation."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_json
from zeronvs._core.progress import Progress, silent
from zeronvs._core.version import __version__
from zeronvs.cameras.embedding import Representation
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.shards.loader import PairBatch, PairLoader, PairLoaderConfig
from zeronvs.training.finetune import TrainingRun, finetune
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.model_sizes import hollow_pipeline
from zeronvs.training.objective import scale_of
from zeronvs.training.plan import TrainingPlan, make_plan
from zeronvs.training.starting_weights import load_start
from zeronvs.training.training_state import FILE_NAME, pair_seed_of

VALIDATION_TRIES = 8
"""Batches that validation pairs are chosen from."""
PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which converts checkpoints and samples pictures."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What somebody wants to train."""

    shards: tuple[Path, ...]
    """Folders of shards."""
    out: Path
    config: FinetuneConfig
    start: str = "builtin"
    """As `load_start` takes it."""
    representation: str | None = None
    """By the paper's name; None keeps that of the start."""
    mixture: dict[str, float] | None = None
    """Weights of the folders by their names; None is equal weights."""
    validation: Path | None = None
    """Shards that are only looked at; None looks at the first training pairs."""
    overlap: tuple[float, float] | None = None
    """Least and most share of the input view that a target sees; None: no limit, as published."""
    pairs_per_frame: float | None = None
    workers: int = 0
    tensorboard: bool = False
    device: str | None = None
    """cpu or cuda; None leaves it to accelerate."""


class Session:
    """One process of a training, ready to begin."""

    def __init__(self, request: TrainRequest, accelerator: Accelerator) -> None:
        self.request, self.accelerator = request, accelerator

    @property
    def is_first(self) -> bool:
        """Whether this process shows progress and writes files."""
        return self.accelerator.is_main_process

    def train(self, progress: Progress = silent) -> Path:
        """Train, or go on; return the folder of the pipeline.

        Raises:
            InputError: Something that was asked for cannot be used.
            HealthError: The training went wrong.
        """
        request, config, accelerator = self.request, self.request.config, self.accelerator
        start = load_start(
            request.start,
            _representation(request.representation),
            seed=config.seed,
            work_dir=request.out,
            takes_average=config.lora_rank is None and config.ema_decay is not None,
            first_alone=self._first_alone,
            progress=progress,
        )
        seed = pair_seed_of(
            request.out / FILE_NAME,
            config.seed,
            batch=config.batch,
            processes=accelerator.num_processes,
        )
        sources = weighted_sources(request.shards, request.mixture)
        with self._first_alone():  # the first process indexes the shards
            pairs = self._loader(sources, start.pipe, seed, progress)
            validation = self._validation_pairs(sources, start.pipe)
        origin = {
            "from": request.start,
            "representation": str(start.pipe.cc_projection.config["representation"]),
            "shards": {path.name: weight for path, weight in sources},
            "overlap": list(request.overlap) if request.overlap else None,
            "pairs_per_frame": request.pairs_per_frame,
        }
        if self.is_first:
            record = {"version": __version__, **origin, "notes": list(start.notes)}
            record |= {"processes": accelerator.num_processes, "config": asdict(config)}
            record |= {"validation": "held out" if request.validation else "training pairs"}
            write_json(request.out / "run.json", record)
        run = TrainingRun(
            start=start,
            pairs=pairs,
            config=config,
            out=request.out,
            accelerator=accelerator,
            pair_seed=seed,
            validation=validation,
            geometry_estimator=(
                load_builtin_depth(device=accelerator.device)
                if start.pipe.conditioning.needs_depth
                else None
            ),
            tensorboard=request.tensorboard,
            origin=origin,
            progress=progress,
        )
        folder = finetune(run)
        # Else threads of the process group may still run when the process ends, and abort it.
        accelerator.end_training()
        return folder

    def _first_alone(self) -> AbstractContextManager[None]:
        return _first_alone(self.accelerator)

    def _loader(
        self,
        sources: list[tuple[Path, float]],
        pipe: ZeroNVSPipeline,
        seed: int,
        progress: Progress,
    ) -> PairLoader:
        return PairLoader(
            sources,
            pair_settings(pipe, self.request, seed),
            batch=self.request.config.batch,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            workers=self.request.workers,
            progress=progress,
        )

    def _validation_pairs(
        self, sources: list[tuple[Path, float]], pipe: ZeroNVSPipeline
    ) -> PairBatch | None:
        config = self.request.config
        if not config.validate_every or not config.validation_pairs:
            return None
        if self.request.validation is not None:
            sources = [(self.request.validation, 1.0)]
        loader = PairLoader(
            sources,
            pair_settings(pipe, self.request, config.seed),
            batch=config.validation_pairs,
        )
        own = Representation(pipe.cc_projection.config["representation"])
        drawn = itertools.islice(loader, VALIDATION_TRIES)
        # Scenes without a scale make pictures that say nothing.
        batch = max(drawn, key=lambda pairs: int(scale_of(pairs, own).isfinite().sum()))
        loader.close()
        return batch


@contextmanager
def _first_alone(accelerator: Accelerator) -> Iterator[None]:
    with accelerator.main_process_first():
        yield


def open_session(request: TrainRequest) -> Session:
    """Find the device and the other processes.

    Raises:
        InputError: The settings, or what the launcher says, do not fit.
    """
    state = _processes(request.device)
    config = decided(request.config, torch.device(state.device or "cpu"))
    accumulation = config.accumulation(state.num_processes)
    precision = None if config.mixed_precision == "auto" else config.mixed_precision
    accelerator = Accelerator(
        cpu=request.device == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=accumulation,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if accelerator.distributed_type.value not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise InputError(
            f"the launcher asks for {accelerator.distributed_type.value}; this trains on one "
            "device, or data-parallel on many (MULTI_GPU, MULTI_CPU). See docs/cluster.md"
        )
    return Session(replace(request, config=config), accelerator)


def decided(config: FinetuneConfig, device: torch.device) -> FinetuneConfig:
    """Return the settings with "auto" decided where the device decides it."""
    has_half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.mixed_precision == "auto" and has_half:
        return replace(config, mixed_precision="bf16")
    return config


def plan_of(request: TrainRequest) -> TrainingPlan:
    """Work out what the training would cost; see `make_plan`.

    Raises:
        InputError: Something that was asked for cannot be used.
    """
    weighted_sources(request.shards, request.mixture)
    pipe = hollow_pipeline(request.start, _representation(request.representation))
    state = _processes(request.device)
    device = torch.device(state.device or "cpu")
    config = decided(request.config, device)
    return make_plan(pipe, config, device=device, processes=state.num_processes)


def weighted_sources(
    shards: tuple[Path, ...], mixture: dict[str, float] | None
) -> list[tuple[Path, float]]:
    """Give every folder of shards its weight.

    Raises:
        InputError: A folder is missing, or folders and mixture name different things.
    """
    if not shards:
        raise InputError("name folders of shards to train on; zeronvs data convert makes them")
    for path in shards:
        if not path.exists():
            raise InputError(f"{path}: there is no such folder of shards")
    names = [path.resolve().name for path in shards]
    if mixture is None:
        return [(path, 1.0) for path in shards]
    if sorted(names) != sorted(mixture):
        raise InputError(
            f"--mixture names {', '.join(sorted(mixture))}; the folders are "
            f"{', '.join(sorted(names))}. Name each folder once"
        )
    return [(path, mixture[name]) for path, name in zip(shards, names, strict=True)]


def pair_settings(pipe: ZeroNVSPipeline, request: TrainRequest, seed: int) -> PairLoaderConfig:
    """Ask the loader for what this model is told, and no more."""
    own = Representation(pipe.cc_projection.config["representation"])
    wanted = [own, Representation.SIX_DOF_VIEWER] if pipe.conditioning.needs_depth else [own]
    settings = PairLoaderConfig(
        size_px=pipe.image_size_px,
        representations=tuple(dict.fromkeys(wanted)),
        input_depth=pipe.conditioning.needs_depth,
        overlap=request.overlap,
        seed=seed,
    )
    if request.pairs_per_frame is None:
        return settings
    return replace(settings, pairs_per_frame=request.pairs_per_frame)


def _representation(name: str | None) -> Representation | None:
    if name is None:
        return None
    try:
        return Representation(name)
    except ValueError as error:
        known = ", ".join(f'"{representation}"' for representation in Representation)
        raise InputError(f"--representation {name!r} is not known; there is {known}") from error


def _processes(device: str | None) -> PartialState:
    if device not in (None, "cpu", "cuda"):
        raise InputError(
            f"--device {device}: training takes cpu or cuda; which GPUs is said to the launcher "
            "(accelerate launch --gpu_ids) or by CUDA_VISIBLE_DEVICES"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no such device here; there is: cpu")
    return PartialState(cpu=device == "cpu", timeout=PATIENCE)
