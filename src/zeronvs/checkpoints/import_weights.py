"""Weights into the user's cache: from a file or folder, or by name from where they lie."""

import shutil
from dataclasses import asdict
from pathlib import Path

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_json
from zeronvs._core.progress import Progress, silent
from zeronvs.checkpoints.cache import (
    PIPELINE_NAME,
    SOURCE_NAME,
    CachedWeights,
    Source,
    WeightsCache,
    checked_name,
)
from zeronvs.checkpoints.convert import ConversionReport, convert_checkpoint, inspect_weights
from zeronvs.checkpoints.download import Patience, download
from zeronvs.checkpoints.folder_writer import folder_aside
from zeronvs.checkpoints.hub import address_on_hub, community_weights
from zeronvs.checkpoints.known import KnownWeights, known_by_sha256, known_weights, licence_of
from zeronvs.checkpoints.weight_files import digest


def import_weights(
    cache: WeightsCache,
    path: Path,
    *,
    name: str | None = None,
    config_path: Path | None = None,
    licence: str | None = None,
    progress: Progress = silent,
) -> CachedWeights:
    """Convert weights into the cache; the files themselves stay as they are.

    Args:
        path: As for `inspect_weights`.
        name: Their name; by default that of published weights with this hash, else that of the
            file.
        config_path: As for `inspect_weights`.
        licence: Where it is known from elsewhere.

    Raises:
        InputError: They cannot be used, are not what their name stands for, or the name is
            taken.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    report = inspect_weights(path, config_path=config_path)
    sha256 = digest(report.paths, progress)
    published = known_by_sha256(sha256)
    if name is None:
        name = path.resolve().stem if published is None else published.name
    known = known_weights(name)
    key = checked_name(name)
    if known is not None:
        _check_known(report, known, path)
        licence = known.licence if licence is None else licence
    source = Source(
        file=path.name,
        size_bytes=sum(file.stat().st_size for file in report.paths),
        sha256=sha256,
        layout=report.layout,
        representation=str(report.architecture.representation),
        in_channels=report.architecture.unet.in_channels,
        uses_ema=report.uses_ema,
        licence=licence_of(sha256) if licence is None else licence,
    )
    with cache.alone(key):
        present = cache.find(key)
        if present is None:
            _convert(cache, path, key, config_path, source, progress)
            present = cache.find(key)
            assert present is not None
        elif present.source.sha256 != sha256:
            raise InputError(
                f"{key} is in the cache already, from {present.source.file} (sha256 "
                f"{present.source.sha256[:12]}...). Remove {present.folder}, or choose another "
                "name",
                argument="name",
            )
    return CachedWeights(name=key, folder=present.folder, source=present.source, notes=report.notes)


def fetch_weights(
    cache: WeightsCache, name: str, *, patience: Patience | None = None, progress: Progress = silent
) -> CachedWeights:
    """Download published weights and convert them into the cache; once.

    Args:
        name: A name of `known.KNOWN`, or the hub id of a diffusers folder of the community.

    Raises:
        InputError: They are not known, or cannot be downloaded.
    """
    present = cache.find(name)
    if present is not None:
        return present
    known = community_weights(name) if "/" in name else known_weights(name)
    if known is None:
        raise InputError(f"{name} names no known weights; `zeronvs model list` shows them.")
    if not known.files:
        raise InputError(f"{name} cannot be fetched: {known.remedy}")
    folder = cache.root / "downloads" / known.name
    with cache.alone(f"{known.name}.download"):
        present = cache.find(name)  # another process may have fetched them meanwhile
        if present is not None:
            return present
        for file in known.files:
            try:
                download(
                    address_on_hub(file) if file.hub_id else file.address,
                    folder / file.name,
                    size_bytes=file.size_bytes,
                    sha256=file.sha256,
                    patience=patience,
                    progress=progress,
                )
            except InputError as error:
                raise InputError(f"{error} By hand: {known.page}") from error
        first = folder if "/" in name else folder / known.files[0].name
        try:
            added = import_weights(
                cache, first, name=known.name, licence=known.licence, progress=progress
            )
        except InputError as error:
            raise InputError(f"{error} To download again, remove {folder}.") from error
        shutil.rmtree(folder)
    return added


def _convert(
    cache: WeightsCache,
    path: Path,
    key: str,
    config_path: Path | None,
    source: Source,
    progress: Progress,
) -> None:
    final = cache.folder(key)
    for left in final.parent.glob(f".{key}.*.part"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with folder_aside(final) as folder:
        convert_checkpoint(
            path,
            folder / PIPELINE_NAME,
            config_path=config_path,
            licence=source.licence,
            sha256=source.sha256,
            progress=progress,
        )
        write_json(folder / SOURCE_NAME, asdict(source))


def _check_known(report: ConversionReport, known: KnownWeights, path: Path) -> None:
    """Refuse weights whose layout is not that of the published ones of this name."""
    architecture = report.architecture
    columns = architecture.camera_embed_dim, architecture.unet.in_channels
    expected = (known.camera_numbers or columns[0], known.in_channels or columns[1])
    if columns != expected:
        raise InputError(
            f"{path} is not {known.name}: it takes {columns[0]} numbers of the camera and has "
            f"{columns[1]} input channels; {known.name} has {expected[0]} and {expected[1]}. "
            "Choose another name",
            argument="name",
        )
