"""Conversion of a checkpoint of the original code into a diffusers folder, and back.

Both directions keep one tensor in memory at a time, so that a file of 10 GB converts on a small
machine, and write atomically.
"""

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.checkpoints.architecture import Architecture
from zeronvs.checkpoints.architecture_reading import (
    architecture_of_checkpoint,
    architecture_of_folder,
    read_official_config,
    write_official_config,
)
from zeronvs.checkpoints.folder_reader import FolderReader, weights_name
from zeronvs.checkpoints.keys import (
    CLIP_PREFIX,
    EMA_COUNTERS,
    EMA_PREFIX,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    Link,
    ema_name,
    links_of,
)
from zeronvs.checkpoints.reader import CheckpointReader, check_content
from zeronvs.checkpoints.writer import PlannedTensor, write_safetensors, write_torch_checkpoint
from zeronvs.diffusion.model_card import write_model_card
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.sampling import NoiseSchedule

KNOWN_LICENCES = {
    "bc4ea2f8696ed96495a756e178cab659de807bbae2d2df18987cf61c44070696": "MIT (Zero123-XL, as its "
    "authors publish it at huggingface.co/cvlab/zero123-weights)",
}
"""Licence of released checkpoints, by the sha256 of the file."""
UNKNOWN_LICENCE = (
    "not known: the file does not state one. The authors of ZeroNVS state none for their weights"
)
Plan = Mapping[str, PlannedTensor]


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """Classification of the tensors of a checkpoint."""

    architecture: Architecture
    uses_ema: bool
    """Whether the denoiser has the moving average of the weights, as the published code samples."""
    converted: tuple[str, ...]
    """Tensors whose numbers are in the folder."""
    derived: tuple[str, ...]
    """The noise schedule and the counters of the moving average, kept as configuration or not at
    all."""
    replaced: tuple[str, ...]
    """The denoiser's weights as trained, where the moving average took their place."""
    unused: tuple[str, ...]
    """CLIP's text tower and the autoencoder's training loss, which the method does not use."""
    unknown: tuple[str, ...]
    """Anything else; left out."""


def convert_checkpoint(
    checkpoint_path: Path,
    out_dir: Path,
    *,
    config_path: Path | None = None,
    half: bool = False,
    progress: Progress = silent,
) -> ConversionReport:
    """Write the diffusers folder of a checkpoint in the released layout, with a model card.

    Args:
        checkpoint_path: `zeronvs.ckpt`, or one of Zero-1-to-3; never trusted.
        out_dir: Folder to make; must not exist, or be empty.
        config_path: YAML file of the checkpoint; by default that of the same name in its folder,
            and where there is none, what the released models have.

    Raises:
        InputError: The checkpoint cannot be used, or the folder is not empty.
    """
    _refuse_full_folder(out_dir)
    config_path = _config_beside(checkpoint_path) if config_path is None else config_path
    config = {} if config_path is None else read_official_config(config_path)
    with CheckpointReader(checkpoint_path) as reader:
        shapes = {name: tensor.shape for name, tensor in reader.tensors.items()}
        architecture = architecture_of_checkpoint(shapes, config)
        report = account_for_keys(shapes, architecture)
        check_content(checkpoint_path)
        dtype = torch.float16 if half else torch.float32
        plans = _plan_folder(reader, report, dtype)
        with _folder_aside(out_dir) as folder:
            pipe = _write_folder(folder, architecture, plans, progress)
            write_model_card(pipe, folder, _origin(checkpoint_path, report))
    return report


def account_for_keys(
    shapes: Mapping[str, tuple[int, ...]], architecture: Architecture
) -> ConversionReport:
    """Classify the tensors of a checkpoint.

    Raises:
        InputError: One that is needed is missing or has a wrong shape, or a part of the model has
            more tensors than this architecture.
    """
    links = links_of(architecture)
    raw = [link.official for link in links["unet"]]
    uses_ema = any(ema_name(name) in shapes for name in raw)
    converted = [
        ema_name(link.official) if uses_ema and component == "unet" else link.official
        for component, parts in links.items()
        for link in parts
    ]
    missing = [name for name in converted if name not in shapes]
    if missing:
        raise InputError(
            f"the checkpoint lacks {len(missing)} of the {len(converted)} tensors that the model "
            f"needs, e.g. {missing[0]}."
        )
    _check_shapes(shapes, architecture, uses_ema)
    schedule = {*NoiseSchedule().buffers(), *EMA_COUNTERS}
    left = [name for name in shapes if name not in set(converted)]
    replaced = set(raw) if uses_ema else set()
    unused = {name for name in left if name.startswith((TEXT_PREFIX, f"{VAE_PREFIX}loss."))}
    unused -= {name for name in left if name.startswith(CLIP_PREFIX)}
    unknown = [name for name in left if name not in schedule | replaced | unused]
    foreign = [
        name
        for name in unknown
        if name.startswith((UNET_PREFIX, EMA_PREFIX, VAE_PREFIX, CLIP_PREFIX, "cc_projection."))
    ]
    if foreign:
        raise InputError(
            f"the checkpoint has {len(foreign)} tensors that this architecture does not, e.g. "
            f"{foreign[0]}; it is not a model of the released family."
        )
    return ConversionReport(
        architecture=architecture,
        uses_ema=uses_ema,
        converted=tuple(converted),
        derived=tuple(name for name in left if name in schedule),
        replaced=tuple(name for name in left if name in replaced),
        unused=tuple(name for name in left if name in unused),
        unknown=tuple(unknown),
    )


def export_checkpoint(
    folder: Path, checkpoint_path: Path, *, half: bool = False, progress: Progress = silent
) -> None:
    """Write a diffusers folder as a checkpoint for the original code, and its YAML file.

    The denoiser's weights are written once and named twice, as trained and as moving average. The
    text tower of CLIP is not in the folder and so not in the file; the original code takes it from
    CLIP itself and does not use it.

    Args:
        checkpoint_path: File to write, e.g. `zeronvs.ckpt`.
        half: Store float16 instead of the folder's own precision.

    Raises:
        InputError: The folder is no such pipeline, or is damaged.
    """
    architecture = architecture_of_folder(folder)
    with FolderReader(folder) as reader:
        reader.check(architecture)
        plans = _plan_checkpoint(reader, architecture, half)
        copies = {ema_name(link.official): link.official for link in links_of(architecture)["unet"]}
        with write_aside(checkpoint_path.with_suffix(".yaml")) as aside:
            write_official_config(aside, architecture)
        metadata = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "1.4.2"}
        with write_aside(checkpoint_path) as aside:
            plans = _watched(plans, progress, "write checkpoint")
            write_torch_checkpoint(aside, plans, copies, metadata)


def _config_beside(checkpoint_path: Path) -> Path | None:
    stem = checkpoint_path.with_suffix("")
    for path in (stem.with_suffix(".yaml"), stem.with_name(f"{stem.name}_config.yaml")):
        if path.is_file():
            return path
    return None


def _refuse_full_folder(out_dir: Path) -> None:
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise InputError(f"{out_dir} already exists; name a folder that does not.")


@contextmanager
def _folder_aside(out_dir: Path) -> Iterator[Path]:
    """Yield a hidden folder that takes the name `out_dir` when the block ends well."""
    aside = out_dir.with_name(f".{out_dir.name}.{secrets.token_hex(4)}.part")
    try:
        aside.mkdir(parents=True)
        yield aside
        if out_dir.exists():
            out_dir.rmdir()
        aside.rename(out_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], architecture: Architecture, uses_ema: bool
) -> None:
    components = architecture.empty_components()
    for component, links in links_of(architecture).items():
        expected = components[component].state_dict()
        for link in links:
            shape = tuple(link.to_official([expected[name] for name in link.stored]).shape)
            name = ema_name(link.official) if uses_ema and component == "unet" else link.official
            if tuple(shapes[name]) != shape:
                raise InputError(
                    f"the checkpoint's tensor {name} has shape {tuple(shapes[name])}; "
                    f"the model needs {shape}."
                )


def _plan_folder(
    reader: CheckpointReader, report: ConversionReport, dtype: torch.dtype
) -> dict[str, Plan]:
    """Return how each stored tensor is made from the checkpoint."""
    plans: dict[str, Plan] = {}
    for component, links in links_of(report.architecture).items():
        plan: dict[str, PlannedTensor] = {}
        for link in links:
            average = report.uses_ema and component == "unet"
            source = ema_name(link.official) if average else link.official
            parts = link.to_stored(torch.empty(reader.tensors[source].shape, device="meta"))
            for index, (name, part) in enumerate(zip(link.stored, parts, strict=True)):

                def make(source: str = source, link: Link = link, index: int = index) -> Tensor:
                    return link.to_stored(reader.load(source))[index]

                plan[name] = PlannedTensor(dtype, tuple(part.shape), make)
        plans[component] = plan
    return plans


def _plan_checkpoint(
    reader: FolderReader, architecture: Architecture, half: bool
) -> dict[str, PlannedTensor]:
    """Return how each official tensor is made from the folder."""
    decay = torch.tensor(0.9999)
    updates = torch.tensor(0, dtype=torch.int32)
    ready = {
        **architecture.schedule.buffers(),
        **dict(zip(EMA_COUNTERS, (decay, updates), strict=True)),
    }
    plan = {
        name: PlannedTensor(tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: tensor)
        for name, tensor in ready.items()
    }
    for component, links in links_of(architecture).items():
        for link in links:
            empty = [reader.empty(component, name) for name in link.stored]
            official = link.to_official(empty)

            def make(component: str = component, link: Link = link) -> Tensor:
                return link.to_official([reader.load(component, name) for name in link.stored])

            dtype = torch.float16 if half else official.dtype
            plan[link.official] = PlannedTensor(dtype, tuple(official.shape), make)
    return plan


def _write_folder(
    folder: Path, architecture: Architecture, plans: Mapping[str, Plan], progress: Progress
) -> ZeroNVSPipeline:
    """Write weights and configurations; return the pipeline, without memory for its tensors."""
    components: dict[str, Any] = dict(architecture.empty_components())
    scheduler = DDIMScheduler(**architecture.schedule.config())
    pipeline = ZeroNVSPipeline(scheduler=scheduler, **components)
    total = sum(len(plan) for plan in plans.values())
    done = 0
    for component, plan in plans.items():
        (folder / component).mkdir()
        watched = _watched(plan, progress, "convert", done, total)
        write_safetensors(folder / component / weights_name(component), watched)
        done += len(plan)
        if component == "image_encoder":
            config = components[component].config
            config.architectures = [type(components[component]).__name__]
            config.save_pretrained(folder / component)
        else:
            components[component].save_config(folder / component)
    scheduler.save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)
    return pipeline


def _origin(checkpoint_path: Path, report: ConversionReport) -> str:
    """Return where converted weights come from, as a table of the model card."""
    with checkpoint_path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = re.sub(r"[^\w. -]", "_", checkpoint_path.name)
    image_dim = report.architecture.clip.projection_dim
    camera_dim = report.architecture.camera_embed_dim
    weights = "their moving average (EMA)" if report.uses_ema else "as trained: there is no EMA"
    rows = {
        "converted from": f"`{name}`, {checkpoint_path.stat().st_size:,} bytes",
        "sha256": f"`{digest}`",
        "layout": f"ZeroNVS or Zero-1-to-3: `cc_projection` takes {image_dim} numbers of the image "
        f"and {camera_dim} of the camera",
        "weights of the denoiser": weights,
        "left out": f"{len(report.replaced)} tensors replaced by the EMA, {len(report.unused)} not "
        f"used by the method, {len(report.unknown)} unknown",
        "licence": KNOWN_LICENCES.get(digest, UNKNOWN_LICENCE),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {row} |" for key, row in rows.items())])


def _watched(
    plan: Plan, progress: Progress, stage: str, done: int = 0, total: int | None = None
) -> dict[str, PlannedTensor]:
    """Return the plan with an event for each tensor that is made."""
    total = len(plan) if total is None else total

    def watch(step: int, tensor: PlannedTensor) -> PlannedTensor:
        def make() -> Tensor:
            progress(ProgressEvent(stage, step, total))
            return tensor.make()

        return PlannedTensor(tensor.dtype, tensor.shape, make)

    return {
        name: watch(done + index + 1, tensor) for index, (name, tensor) in enumerate(plan.items())
    }
