"""Conversion of weights of any layout into a diffusers folder of ours, and back to a checkpoint.

Both directions keep one tensor in memory at a time, so that a file of 10 GB converts on a small
machine, and write atomically.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs._core.progress import Progress, silent
from zeronvs.checkpoints.architecture import Architecture
from zeronvs.checkpoints.architecture_reading import (
    architecture_of_checkpoint,
    is_of_megascenes,
    read_official_config,
    write_official_config,
)
from zeronvs.checkpoints.folder_architecture import architecture_of_folder, is_own_folder
from zeronvs.checkpoints.folder_reader import FolderReader
from zeronvs.checkpoints.folder_writer import Plan, folder_aside, watched, write_folder
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
from zeronvs.checkpoints.known import licence_of
from zeronvs.checkpoints.weight_files import Reader, WeightFiles, digest, find_weights
from zeronvs.checkpoints.writer import PlannedTensor, write_torch_checkpoint
from zeronvs.diffusion.loading import INDEX_NAME
from zeronvs.diffusion.model_card import write_model_card
from zeronvs.diffusion.sampling import NoiseSchedule


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What the weights are, by their content, and the fate of each of their tensors."""

    architecture: Architecture
    layout: str
    """Format of the files, in words."""
    paths: tuple[Path, ...]
    """The files that hold the weights."""
    uses_ema: bool
    """Whether the denoiser has the moving average of the weights, as the published code samples."""
    converted: tuple[str, ...]
    """Tensors whose numbers are in the folder."""
    derived: tuple[str, ...] = ()
    """The noise schedule and the counters of the moving average, kept as configuration or not at
    all."""
    replaced: tuple[str, ...] = ()
    """The denoiser's weights as trained, where the moving average took their place."""
    unused: tuple[str, ...] = ()
    """CLIP's text tower, the autoencoder's training loss, and an average that training did not
    update, which the method does not use."""
    unknown: tuple[str, ...] = ()
    """Anything else; left out."""
    notes: tuple[str, ...] = ()
    """What the user should know about how the weights were read."""


def inspect_weights(path: Path, *, config_path: Path | None = None) -> ConversionReport:
    """Read what weights are, without converting them.

    Args:
        path: A file of the released layout, a folder that accelerate saved, or a diffusers folder
            of the community; never trusted.
        config_path: YAML file of the weights; by default the one that lies beside them, and where
            there is none, what the released models have.

    Raises:
        InputError: They cannot be used.
    """
    if (path / INDEX_NAME).is_file():
        with FolderReader(path) as folder:
            return _inspect_folder(path, folder)
    files = find_weights(path)
    with files.reader() as reader:
        return _inspect_state(files, reader, config_path)


def convert_checkpoint(
    checkpoint_path: Path,
    out_dir: Path,
    *,
    config_path: Path | None = None,
    half: bool = False,
    sha256: str | None = None,
    licence: str | None = None,
    progress: Progress = silent,
) -> ConversionReport:
    """Write the diffusers folder of weights of any known layout, with a model card.

    Args:
        checkpoint_path: As for `inspect_weights`: `zeronvs.ckpt`, one of Zero-1-to-3, ...
        out_dir: Folder to make; must not exist, or be empty.
        config_path: As for `inspect_weights`.
        sha256: `digest` of the files, where it is known already.
        licence: Their licence, where it is known; for the model card.

    Raises:
        InputError: The weights cannot be used, or the folder is not empty.
    """
    _refuse_full_folder(out_dir)
    dtype = torch.float16 if half else torch.float32
    if (checkpoint_path / INDEX_NAME).is_file():
        with FolderReader(checkpoint_path) as folder:
            report = _inspect_folder(checkpoint_path, folder)
            plans = _plan_copy(folder, report.architecture, dtype)
            _write(out_dir, checkpoint_path, report, plans, (sha256, licence), progress)
        return report
    files = find_weights(checkpoint_path)
    with files.reader() as reader:
        report = _inspect_state(files, reader, config_path)
        files.check_content()
        plans = _plan_folder(reader, report, dtype)
        _write(out_dir, checkpoint_path, report, plans, (sha256, licence), progress)
    return report


def _write(
    out_dir: Path,
    path: Path,
    report: ConversionReport,
    plans: Mapping[str, Plan],
    known: tuple[
        str | None,  # sha256
        str | None,  # licence
    ],
    progress: Progress,
) -> None:
    """Write folder and model card."""
    sha256, licence = known
    with folder_aside(out_dir) as folder:
        pipe = write_folder(folder, report.architecture, plans, progress)
        sha256 = digest(report.paths, progress) if sha256 is None else sha256
        write_model_card(pipe, folder, _origin(path, report, sha256, licence))


def _inspect_folder(path: Path, folder: FolderReader) -> ConversionReport:
    if is_own_folder(path):
        raise InputError(f"{path} is a pipeline folder of this package already; use it as it is.")
    architecture = architecture_of_folder(path, folder.projection_columns)
    folder.check(architecture)
    modules = architecture.empty_components()
    return ConversionReport(
        architecture=architecture,
        layout="diffusers folder",
        paths=tuple(folder.paths),
        uses_ema=folder.is_average,
        converted=tuple(
            f"{component}/{name}"
            for component, module in modules.items()
            for name in module.state_dict()
        ),
    )


def _inspect_state(
    files: WeightFiles, reader: Reader, config_path: Path | None
) -> ConversionReport:
    config_path = files.config_path if config_path is None else config_path
    config = {} if config_path is None else read_official_config(config_path)
    shapes = {name: tuple(tensor.shape) for name, tensor in reader.tensors.items()}
    # The training loop of MegaScenes saves by accelerate, embeds cameras without the squash, and
    # never updates the average that it inherits: it samples the weights as trained
    # (MegaScenes/nvs, train.py, configs/*/config.yaml: use_ema_scope: False).
    of_megascenes = files.is_accelerate or is_of_megascenes(shapes, config)
    notes: list[str] = []
    architecture = architecture_of_checkpoint(
        shapes, config, of_megascenes=of_megascenes, notes=notes
    )
    if of_megascenes:
        notes.append(
            "of MegaScenes, by its layout: weights as trained, since its average is not updated"
        )
    report = account_for_keys(shapes, architecture, takes_average=not of_megascenes)
    return replace(report, layout=files.layout, paths=files.paths, notes=tuple(notes))


def account_for_keys(
    shapes: Mapping[str, tuple[int, ...]],
    architecture: Architecture,
    *,
    takes_average: bool = True,
) -> ConversionReport:
    """Classify the tensors of a checkpoint.

    Args:
        takes_average: Whether the denoiser gets the moving average, where there is one.

    Raises:
        InputError: One that is needed is missing or has a wrong shape, or a part of the model has
            more tensors than this architecture.
    """
    links = links_of(architecture)
    raw = [link.official for link in links["unet"]]
    uses_ema = takes_average and any(ema_name(name) in shapes for name in raw)
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
    if not takes_average:
        unused |= {ema_name(name) for name in raw}
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
        layout="",
        paths=(),
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
            plans = watched(plans, progress, "write checkpoint")
            write_torch_checkpoint(aside, plans, copies, metadata)


def _refuse_full_folder(out_dir: Path) -> None:
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise InputError(f"{out_dir} already exists; name a folder that does not.")


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


def _plan_folder(reader: Reader, report: ConversionReport, dtype: torch.dtype) -> dict[str, Plan]:
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


def _plan_copy(
    reader: FolderReader, architecture: Architecture, dtype: torch.dtype
) -> dict[str, Plan]:
    """Return how each stored tensor is read from another diffusers folder."""
    plans: dict[str, Plan] = {}
    for component, module in architecture.empty_components().items():
        plans[component] = {
            name: PlannedTensor(dtype, tuple(expected.shape), partial(reader.load, component, name))
            for name, expected in module.state_dict().items()
        }
    return plans


def _origin(path: Path, report: ConversionReport, sha256: str, licence: str | None) -> str:
    """Return where converted weights come from, as a table of the model card."""
    name = re.sub(r"[^\w. -]", "_", path.name)
    size = sum(file.stat().st_size for file in report.paths)
    image_dim = report.architecture.clip.projection_dim
    camera_dim = report.architecture.camera_embed_dim
    weights = "their moving average (EMA)" if report.uses_ema else "as trained"
    rows = {
        "converted from": f"`{name}`, {size:,} bytes ({report.layout})",
        "sha256": f"`{sha256}`",
        "layout": f"`cc_projection` takes {image_dim} numbers of the image and {camera_dim} of the "
        f"camera; the denoiser has {report.architecture.unet.in_channels} input channels",
        "weights of the denoiser": weights,
        "left out": f"{len(report.replaced)} tensors replaced by the EMA, {len(report.unused)} not "
        f"used by the method, {len(report.unknown)} unknown",
        "licence": licence_of(sha256) if licence is None else licence,
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {row} |" for key, row in rows.items())])
