"""Defaults of the photograph subcommands (device, model, camera), each with its source."""

from typing import TYPE_CHECKING, Any

from zeronvs.cli.arguments import PhotoArguments, radians

if TYPE_CHECKING:
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.recipes.prepare import PreparedPhoto

Row = tuple[str, Any, str]


def best_device(device: str | None) -> str:
    """Return the device to use: the given one, else CUDA where there is one, else the CPU."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def source(value: object, default: str) -> str:
    """Return "given" for a value that the user set, else the source of the default."""
    return default if value is None else "given"


def resolve_photo(
    arguments: PhotoArguments, *, max_side_px: int | None = None
) -> tuple["PreparedPhoto", list[Row]]:
    """Load and prepare the photograph; nothing is written.

    Raises:
        InputError: The photograph or a number cannot be used.
    """
    from zeronvs.depth.builtin import load_builtin_depth
    from zeronvs.photo.photo import load_photo
    from zeronvs.recipes.prepare import prepare_photo

    photo = load_photo(arguments.photo)  # first: a wrong path is found before a model is loaded
    prepared = prepare_photo(
        photo,
        geometry_estimator=load_builtin_depth(device=best_device(arguments.device)),
        max_side_px=max_side_px,
        fov_y_rad=radians(arguments.fov_deg),
        elevation_rad=radians(arguments.elevation_deg),
        scene_scale=arguments.scene_scale,
    )
    rows: list[Row] = []
    for name in ("fov_y_rad", "elevation_rad", "scene_scale"):
        estimate = getattr(prepared.estimates, name)
        rows.append((name, estimate.value, estimate.source))
    return prepared, rows


def resolve_model(arguments: PhotoArguments) -> tuple["ZeroNVSPipeline", list[Row]]:
    """Load the diffusion model onto the device.

    Raises:
        InputError: It cannot be used.
    """
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline

    pipe = ZeroNVSPipeline.from_pretrained(arguments.model or "builtin")
    rows: list[Row] = [("model", arguments.model or "builtin", source(arguments.model, "default"))]
    return pipe.to(best_device(arguments.device)), rows


def resolve_run(arguments: PhotoArguments) -> list[Row]:
    """Return the settings of a run that need nothing loaded."""
    return [
        ("device", best_device(arguments.device), source(arguments.device, "best available")),
        ("seed", arguments.seed or 0, source(arguments.seed, "default")),
    ]
