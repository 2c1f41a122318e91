"""Setup of a training run from a request: processes, starting weights, data, validation."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_json
from zeronvs._core.progress import Progress, silent
from zeronvs._core.resumable import ResumableRun
from zeronvs._core.version import __version__
from zeronvs.cameras.embedding import Representation
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.shards.loader import PairLoader, PairLoaderConfig
from zeronvs.training.denoising import DenoisingObjective
from zeronvs.training.finetune import TrainingRun, finetune
from zeronvs.training.finetune_config import FinetuneConfig, autocast_precision
from zeronvs.training.starting_weights import StartingPoint, load_start
from zeronvs.training.training_state import FILE_NAME, data_seed_of
from zeronvs.training.view_pairs import pair_scales

VALIDATION_TRIES = 8
"""Batches that the validation pairs are chosen from."""
TIMEOUT = timedelta(hours=2)
"""Time that processes wait for the first one, which converts checkpoints and validates."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A training to run."""

    data: tuple[Path, ...]
    """Folders of shards; of the preset's data for a preset with its own sources."""
    out: Path
    config: FinetuneConfig
    start: str = "builtin"
    """Starting weights, as `load_start` takes them."""
    representation: str | None = None
    """Camera representation by the paper's name; None keeps that of the start."""
    mixture: dict[str, float] | None = None
    """Weights of the shard folders by name; None: equal weights."""
    validation: Path | None = None
    """Shards for validation; None validates on the first training pairs."""
    overlap: tuple[float, float] | None = None
    """Minimum and maximum share of the input view that a target sees; None: any, as published."""
    pairs_per_frame: float | None = None
    workers: int = 0
    tensorboard: bool = False
    device: str | None = None
    """cpu or cuda; None leaves it to accelerate."""


class Session:
    """One process of a training, ready to start."""

    def __init__(self, request: TrainRequest, accelerator: Accelerator) -> None:
        self.request, self.accelerator = request, accelerator

    @property
    def is_first(self) -> bool:
        """Whether this process shows progress and writes files."""
        return self.accelerator.is_main_process

    def train(self, progress: Progress = silent) -> Path:
        """Train on shards, or resume; return the folder of the pipeline.

        Raises:
            InputError: The request cannot be used as it is.
            HealthError: The training diverged, or the memory is used up.
        """
        with self.opened() as folder:
            start = self.load_start(progress)
            sources = weighted_sources(self.request.data, self.request.mixture)
            seed = self.data_seed(self.request.out)
            with self.first_alone():  # the first process indexes the shards
                loader = self._loader(sources, start.pipe, seed, progress)
                validation = self._validation_pairs(sources, start.pipe)
            origin = {
                "shards": {path.name: weight for path, weight in sources},
                "overlap": list(self.request.overlap) if self.request.overlap else None,
                "pairs_per_frame": self.request.pairs_per_frame,
            }
            needs_depth = start.pipe.conditioning.needs_depth
            objective = DenoisingObjective(
                start.pipe,
                self.request.config,
                geometry_estimator=(
                    load_builtin_depth(device=self.accelerator.device) if needs_depth else None
                ),
            )
            return self.run(
                start=start,
                folder=folder,
                objective=objective,
                data=loader,
                data_seed=seed,
                validation=validation,
                origin=origin,
                progress=progress,
            )

    @contextmanager
    def opened(self) -> Iterator[ResumableRun | None]:
        """Lock the run folder, in the first process, and leave the process group at the end."""
        with ResumableRun(self.request.out) if self.is_first else nullcontext() as folder:
            yield folder
        # Otherwise threads of the process group may run on when the process ends, and abort it.
        self.accelerator.end_training()

    def load_start(self, progress: Progress) -> StartingPoint:
        """Load the starting weights."""
        request, config = self.request, self.request.config
        return load_start(
            request.start,
            representation_named(request.representation),
            seed=config.seed,
            work_dir=request.out,
            takes_average=config.lora_rank is None and config.ema_decay is not None,
            first_alone=self.first_alone,
            progress=progress,
        )

    def data_seed(self, out: Path) -> int:
        """Return the seed of the data stream of a new or resumed run."""
        config, processes = self.request.config, self.accelerator.num_processes
        return data_seed_of(out / FILE_NAME, config.seed, batch=config.batch, processes=processes)

    def run(self, *, start: StartingPoint, origin: dict[str, Any], **settings: Any) -> Path:
        """Train a denoiser from starting weights; the settings are those of `TrainingRun`."""
        request, config = self.request, self.request.config
        origin = {
            "from": request.start,
            "representation": str(start.pipe.cc_projection.config["representation"]),
            **origin,
        }
        if self.is_first:
            record = {"version": __version__, **origin, "notes": list(start.notes)}
            record |= {"processes": self.accelerator.num_processes, "config": asdict(config)}
            record |= {"validation": "held out" if request.validation else "training pairs"}
            write_json(request.out / "run.json", record)
        average = None
        if start.average is not None and config.lora_rank is None:
            tensors = {f"unet.{name}": tensor for name, tensor in start.average.items()}
            average = (tensors, start.average_updates)
        return finetune(
            TrainingRun(
                config=config,
                out=request.out,
                accelerator=self.accelerator,
                start_average=average,
                tensorboard=request.tensorboard,
                origin=origin,
                **settings,
            )
        )

    def first_alone(self) -> AbstractContextManager[None]:
        """Return a block that the first process enters alone, and the others after it."""
        return self.accelerator.main_process_first()

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

    def _validation_pairs(self, sources: list[tuple[Path, float]], pipe: ZeroNVSPipeline) -> Any:
        config = self.request.config
        if not config.validate_every or not config.validation_pairs:
            return None
        if self.request.validation is not None:
            sources = [(self.request.validation, 1.0)]
        settings = pair_settings(pipe, self.request, config.seed)
        loader = PairLoader(sources, settings, batch=config.validation_pairs)
        own = Representation(pipe.cc_projection.config["representation"])
        drawn = itertools.islice(loader, VALIDATION_TRIES)
        # Pairs without a scale cannot be sampled meaningfully.
        batch = max(drawn, key=lambda pairs: int(pair_scales(pairs, own).isfinite().sum()))
        loader.close()
        return batch


def open_session(request: TrainRequest) -> Session:
    """Find the device and the other processes.

    Raises:
        InputError: The settings, or those of the launcher, do not fit.
    """
    state = _processes(request.device)
    config = with_precision(request.config, torch.device(state.device or "cpu"))
    accumulation = config.accumulation(state.num_processes)
    accelerator = Accelerator(
        cpu=request.device == "cpu",
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=accumulation,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    if accelerator.distributed_type.value not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise InputError(
            f"the launcher requests {accelerator.distributed_type.value}; training runs on one "
            "device, or data-parallel on many (MULTI_GPU, MULTI_CPU). See docs/cluster.md"
        )
    return Session(replace(request, config=config), accelerator)


def with_precision(config: FinetuneConfig, device: torch.device) -> FinetuneConfig:
    """Return the settings with the precision "auto" resolved for a device."""
    if config.mixed_precision != "auto":
        return config
    precision = autocast_precision(
        device.type,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        cuda_has_bf16=device.type == "cuda" and torch.cuda.is_bf16_supported(),
    )
    return replace(config, mixed_precision=precision)


def weighted_sources(
    shards: tuple[Path, ...], mixture: dict[str, float] | None
) -> list[tuple[Path, float]]:
    """Return every folder of shards with its weight.

    Raises:
        InputError: A folder is missing, or the mixture has other names than the folders.
    """
    if not shards:
        raise InputError("data is empty; give folders of shards (zeronvs.shards.convert)")
    for path in shards:
        if not path.exists():
            raise InputError(f"{path}: there is no such folder of shards")
    names = [path.resolve().name for path in shards]
    if mixture is None:
        return [(path, 1.0) for path in shards]
    if sorted(names) != sorted(mixture):
        raise InputError(
            f"the mixture names {', '.join(sorted(mixture))}; the folders are "
            f"{', '.join(sorted(names))}. Name each folder once"
        )
    return [(path, mixture[name]) for path, name in zip(shards, names, strict=True)]


def pair_settings(pipe: ZeroNVSPipeline, request: TrainRequest, seed: int) -> PairLoaderConfig:
    """Return loader settings that read what this model needs, and no more."""
    own = Representation(pipe.cc_projection.config["representation"]).scaled_as
    needed = [own, Representation.SIX_DOF_VIEWER] if pipe.conditioning.needs_depth else [own]
    settings = PairLoaderConfig(
        size_px=pipe.image_size_px,
        representations=tuple(dict.fromkeys(needed)),
        input_depth=pipe.conditioning.needs_depth,
        overlap=request.overlap,
        seed=seed,
    )
    if request.pairs_per_frame is None:
        return settings
    return replace(settings, pairs_per_frame=request.pairs_per_frame)


def representation_named(name: str | None) -> Representation | None:
    """Return a camera representation by the paper's name.

    Raises:
        InputError: There is none of this name.
    """
    if name is None:
        return None
    try:
        return Representation(name)
    except ValueError as error:
        known = ", ".join(f'"{representation}"' for representation in Representation)
        raise InputError(f"representation={name!r} is not known; there is {known}") from error


def _processes(device: str | None) -> PartialState:
    if device not in (None, "cpu", "cuda"):
        raise InputError(
            f"device={device} must be cpu or cuda; choose GPUs with the launcher "
            "(accelerate launch --gpu_ids) or CUDA_VISIBLE_DEVICES"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: there is no such device here; there is: cpu")
    return PartialState(cpu=device == "cpu", timeout=TIMEOUT)
