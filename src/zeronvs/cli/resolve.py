"""Defaults of the photograph subcommands (device, model, camera), each with its source."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import CameraArguments, PhotoArguments, radians

if TYPE_CHECKING:
    from zeronvs.checkpoints.cache import WeightsCache
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.protocols import CameraCalibrator, GeometryEstimator
    from zeronvs.recipes.prepare import PreparedPhoto

Row = tuple[str, Any, str]
NO_MODEL = "none"
"""What --depth-model is for estimates without depth."""


def best_device(device: str | None) -> str:
    """Return the device to use: the given one, else CUDA where there is one, else the CPU."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def source(value: object, default: str) -> str:
    """Return "given" for a value that the user set, else the source of the default."""
    return default if value is None else "given"


Estimators = tuple["GeometryEstimator | None", "CameraCalibrator | None", list[Row]]


def resolve_photo(
    arguments: PhotoArguments,
    *,
    max_side_px: int | None = None,
    estimators: Callable[[], Estimators] | None = None,
) -> tuple["PreparedPhoto", list[Row]]:
    """Load and prepare the photograph; nothing is written.

    Args:
        estimators: Returns what `resolve_estimators` does, where it is loaded once for many.

    Raises:
        InputError: The photograph or a number cannot be used.
    """
    from zeronvs.photo.photo import load_photo
    from zeronvs.recipes.prepare import prepare_photo

    photo = load_photo(arguments.photo)  # first: a wrong path is found before a model is loaded
    if arguments.depth_model == NO_MODEL:
        raise InputError("this needs depth; none is for estimates only", argument="depth_model")
    estimator, calibrator, models = estimators() if estimators else resolve_estimators(arguments)
    prepared = prepare_photo(
        photo,
        geometry_estimator=estimator,
        calibrator=calibrator,
        max_side_px=max_side_px,
        fov_y_rad=radians(arguments.fov_deg),
        elevation_rad=radians(arguments.elevation_deg),
        scene_scale=arguments.scene_scale,
    )
    rows = list(models)
    for name in ("fov_y_rad", "elevation_rad", "scene_scale"):
        estimate = getattr(prepared.estimates, name)
        rows.append((name, estimate.value, estimate.source))
    return prepared, rows


def resolve_estimators(arguments: CameraArguments) -> Estimators:
    """Load the models that estimate depth and camera; those of others have their licence as source.

    Raises:
        InputError: One cannot be used.
    """
    from zeronvs.depth.pretrained import BUILTIN, load_depth_model
    from zeronvs.photo.geocalib import LICENCE, load_geocalib

    device, name = best_device(arguments.device), arguments.depth_model
    estimator, calibrator, rows = None, None, []
    if name != NO_MODEL:
        estimator, title, licence = load_depth_model(name, device=device)
        rows.append(("depth_model", title, "default" if name == BUILTIN else licence))
    if arguments.camera_model is not None:
        calibrator = load_geocalib(arguments.camera_model, device=device)
        rows.append(("camera_model", calibrator.title, LICENCE))
    return estimator, calibrator, rows


def weights_cache() -> "WeightsCache":
    """Return the user's cache of weights, in the place that the platform gives to caches."""
    from zeronvs.checkpoints.cache import WeightsCache

    if sys.platform == "win32":
        place, default = os.environ.get("LOCALAPPDATA", ""), Path("~/AppData/Local")
    elif sys.platform == "darwin":
        place, default = "", Path("~/Library/Caches")
    else:
        place, default = "", Path("~/.cache")
    place = os.environ.get("XDG_CACHE_HOME", "") or place
    # The specification of base directories: a relative path is no answer.
    root = Path(place) if place and Path(place).is_absolute() else default.expanduser()
    return WeightsCache(root / "zeronvs")


def model_source(name: str) -> str:
    """Return what a pipeline loads for --model: the folder of a name in the cache, else as given.

    Raises:
        InputError: It is a name that is not in the cache, or a file.
    """
    from zeronvs.checkpoints.known import known_weights

    cached = weights_cache().find(name)
    if cached is not None:
        return str(cached.pipeline)
    known = known_weights(name)
    if known is not None:
        raise InputError(f"the model {name} is not here yet; {known.remedy}")
    if Path(name).expanduser().is_file():
        raise InputError(
            f"{name} is a file. Run: zeronvs model import {name}, then give the name it prints",
            argument="model",
        )
    return name


def check_model(name: str | None) -> None:
    """Refuse a model that cannot be used, before anything slow.

    Raises:
        InputError: It is not here, or is no model.
    """
    if name is not None:
        from zeronvs.diffusion.loading import check_pipeline

        check_pipeline(model_source(name))


def resolve_model(arguments: PhotoArguments) -> tuple["ZeroNVSPipeline", list[Row]]:
    """Load the diffusion model onto the device.

    Raises:
        InputError: It cannot be used.
    """
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline

    pipe = ZeroNVSPipeline.from_pretrained(model_source(arguments.model or "builtin"))
    rows: list[Row] = [("model", arguments.model or "builtin", source(arguments.model, "default"))]
    return pipe.to(best_device(arguments.device)), rows


def resolve_run(arguments: PhotoArguments) -> list[Row]:
    """Return the settings of a run that need nothing loaded."""
    return [
        ("device", best_device(arguments.device), source(arguments.device, "best available")),
        ("seed", arguments.seed or 0, source(arguments.seed, "default")),
    ]
