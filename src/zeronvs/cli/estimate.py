"""`zeronvs estimate`: field of view, elevation, depth and scale of a photograph."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from zeronvs.cli.arguments import CameraArguments, Photos, check_device, parse, radians

if TYPE_CHECKING:
    from zeronvs.cli.resolve import Estimators
    from zeronvs.photo.camera_estimate import CameraEstimate
    from zeronvs.photo.photo import Photo
    from zeronvs.recipes.summary import Made


@dataclass(frozen=True, kw_only=True)
class EstimateArguments(CameraArguments):
    """Estimate field of view, elevation, depth and scale of a photograph."""

    photo: Photos
    """The photograph, in any common format; of a folder, every photograph in it."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """A folder for overlay.png (horizon and depth) and estimate.json; not written if not given."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments, estimate, print, and write on request."""
    arguments = parse(EstimateArguments, words, "estimate")
    check_device(arguments.device)
    from zeronvs.cli.resolve import resolve_estimators

    estimators = cache(lambda: resolve_estimators(arguments))

    def make(photo: Path, out: Path) -> "Made":
        folder = None if arguments.out is None else out
        return _make(replace(arguments, photo=photo, out=folder), estimators)

    out = arguments.out or Path()
    if not arguments.photo.is_dir():
        make(arguments.photo, out)
        return
    from zeronvs.cli.batch import run_batch

    estimators()  # what cannot be loaded is no fault of a photograph
    run_batch(
        arguments.photo, out, make, words=["estimate", *words], writes=arguments.out is not None
    )


def _make(arguments: EstimateArguments, estimators: Callable[[], "Estimators"]) -> "Made":
    """Estimate one photograph."""
    from zeronvs.photo.camera_estimate import estimate_camera
    from zeronvs.photo.photo import load_photo
    from zeronvs.recipes.prepare import estimator_notes
    from zeronvs.recipes.summary import Made

    photo = load_photo(arguments.photo)  # first: a wrong path is found before a model is loaded
    estimator, calibrator, models = estimators()
    geometry = None if estimator is None else estimator.estimate(photo.image[None])
    calibration = None if calibrator is None else calibrator.calibrate(photo.image)
    estimate = estimate_camera(
        photo.image.shape[-2:],
        image=photo.image,
        focal_px=photo.focal_px,
        focal_source=photo.focal_source,
        geometry=geometry,
        calibration=calibration,
        fov_y_rad=radians(arguments.fov_deg),
        elevation_rad=radians(arguments.elevation_deg),
        scene_scale=arguments.scene_scale,
    )
    notes = [*photo.notes, *estimator_notes(geometry, calibration, estimate.scene_scale.value)]
    notes += [f"{title}: {licence}" for _, title, licence in models if licence != "default"]
    _print(estimate, notes)
    if arguments.out is None:
        return Made(estimate, tuple(notes), None, ())
    files = _write(arguments.out, photo, estimate)
    return Made(estimate, tuple(notes), files[0], files)


def _rows(estimate: "CameraEstimate") -> Iterator[tuple[str, float, float, str, str]]:
    """Yield name, value, spread, source and flag, angles in degrees."""
    fov, elevation, scale = estimate.fov_y_rad, estimate.elevation_rad, estimate.scene_scale
    yield (
        "fov_deg",
        math.degrees(fov.value),
        math.degrees(fov.spread),
        fov.source,
        "--fov-deg",
    )
    yield (
        "elevation_deg",
        math.degrees(elevation.value),
        math.degrees(elevation.spread),
        elevation.source,
        "--elevation-deg",
    )
    yield "scene_scale", scale.value, scale.spread, scale.source, "--scene-scale"


def _print(estimate: "CameraEstimate", notes: Sequence[str]) -> None:
    from zeronvs.cli.report import print_table

    rows = [("estimate", "value", "spread", "from", "flag")]
    for name, value, spread, source, flag in _rows(estimate):
        rows.append((name, f"{value:.3g}", f"{spread:.2g}", source, flag))
    print_table(rows)
    for note in notes:
        print(f"note: {note}")


def _write(folder: Path, photo: "Photo", estimate: "CameraEstimate") -> tuple[Path, ...]:
    """Write the overlay of horizon and depth, and the numbers; return the files."""
    from zeronvs._core.files import write_json
    from zeronvs.exports.overlay import estimate_overlay
    from zeronvs.formats.images import write_image

    overlay = estimate_overlay(
        photo.image,
        fov_y_rad=estimate.fov_y_rad.value,
        elevation_rad=estimate.elevation_rad.value,
        relative_depth=estimate.relative_depth,
    )
    files = (folder / "overlay.png", folder / "estimate.json")
    write_image(files[0], overlay)
    numbers = {
        name: {"value": value, "spread": spread, "source": source}
        for name, value, spread, source, _ in _rows(estimate)
    }
    write_json(files[1], numbers)
    print("", *files, sep="\n")
    return files
