"""What is done in processes of their own: estimates, a scene, a video."""

import math
from pathlib import Path

import torch
from PIL import Image

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.files import write_aside, write_json
from zeronvs._core.progress import Progress, ProgressEvent
from zeronvs.cameras.view import resize_image
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.formats.images import write_image
from zeronvs.photo.decode import open_image
from zeronvs.photo.estimates import Estimate
from zeronvs.photo.photo import load_photo
from zeronvs.protocols import GeometryEstimator
from zeronvs.recipes.far_path import suggest_path
from zeronvs.recipes.prepare import RESOLUTION_PX, prepare_photo
from zeronvs.recipes.presets import PREVIEW, LiftRecipe
from zeronvs.recipes.run_folder import open_run, render_run
from zeronvs.recipes.scene_outputs import first_look
from zeronvs.recipes.write_run import write_scene_run
from zeronvs.web.look import FRAMES, FRAMES_PER_SECOND, write_look_page
from zeronvs.web.tasks import AnyTask, EstimateTask, RenderTask, SceneTask

SHOWN_SIDE_PX = 1024
"""Longer side of the photograph on the page with the estimates."""
DEPTH_SIDE_PX = 256
NEAREST, FARTHEST = 0.05, 50.0
"""Range of depth.png in scene units: a byte is the logarithm of the depth between these."""


class Worker:
    """Does any of these tasks, with the depth network loaded before."""

    def __init__(self, recipe: LiftRecipe = PREVIEW) -> None:
        """Load what takes long.

        Args:
            recipe: Of all scenes.
        """
        self._recipe = recipe
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device, self._geometry = device, load_builtin_depth(device=device)

    def __call__(self, task: AnyTask, progress: Progress) -> None:
        """Do one task.

        Raises:
            InputError: The photograph, a number or the run cannot be used.
            HealthError: The scene went wrong.
        """
        match task:
            case EstimateTask():
                estimate(task, self._geometry, progress)
            case SceneTask():
                make_scene(task, self._recipe, self._geometry, progress)
            case RenderTask():
                run = open_run(task.run_dir, self._device)
                render_run(
                    run,
                    path=task.path,
                    frames=FRAMES,
                    frames_per_second=FRAMES_PER_SECOND,
                    out=task.out,
                    progress=progress,
                )


def estimate(task: EstimateTask, geometry: GeometryEstimator, progress: Progress) -> None:
    """Estimate the camera of a photograph; write the numbers and what the page shows of them."""
    with ReadingErrors("this photograph is damaged or cut short; send a whole one"):
        with open_image(task.photo, []) as image:
            width_px, height_px = image.size
    if width_px * height_px > task.max_px:
        raise InputError(
            f"this photograph has {width_px}x{height_px} pixels; at most "
            f"{task.max_px / 1e6:.0f} megapixels are taken here. Use a smaller copy."
        )
    photo = load_photo(task.photo)
    progress(ProgressEvent("estimate", 0, 1))
    prepared = prepare_photo(photo, geometry_estimator=geometry, max_side_px=RESOLUTION_PX)
    view, path = prepared.view, suggest_path(prepared.view)
    assert view.depth_z is not None
    shown = view.camera.with_longer_side(min(SHOWN_SIDE_PX, max(view.camera.image_size_px)))
    write_image(task.out / "photo.jpg", resize_image(view.image, shown.image_size_px))
    _write_depth(task.out / "depth.png", view.depth_z)
    write_image(task.out / "first_look.png", first_look(view))
    height_px, width_px = photo.source_size_px
    found = prepared.estimates
    write_json(
        task.out / "estimate.json",
        {
            "fov_deg": _row(found.fov_y_rad, math.degrees(1.0)),
            "elevation_deg": _row(found.elevation_rad, math.degrees(1.0)),
            "scene_scale": _row(found.scene_scale, 1.0),
            "notes": list(prepared.notes),
            "width_px": width_px,
            "height_px": height_px,
            "path": path.name,
            "path_reason": path.reason,
            "depth_range": [NEAREST, FARTHEST],
        },
    )


def make_scene(
    task: SceneTask, recipe: LiftRecipe, geometry: GeometryEstimator, progress: Progress
) -> None:
    """Make or resume a scene; write its run folder, and the page to look around in."""
    settings = task.settings
    progress(ProgressEvent("look at the photograph", 0, 1))
    photo = prepare_photo(
        task.photo,
        geometry_estimator=geometry,
        max_side_px=RESOLUTION_PX,
        fov_y_rad=radians(settings.fov_deg),
        elevation_rad=radians(settings.elevation_deg),
        scene_scale=settings.scene_scale,
    )
    rows = [("resolution", max(photo.view.camera.image_size_px), "photo")]
    for name in ("fov_y_rad", "elevation_rad", "scene_scale"):
        found = getattr(photo.estimates, name)
        rows.append((name, found.value, found.source))
    write_scene_run(
        photo,
        None,
        recipe,
        task.out,
        rows=rows,
        title=task.title,
        resume=True,
        progress=progress,
    )
    progress(ProgressEvent("write the page", 0, 1))
    write_look_page(open_run(task.out), task.page)


def _row(estimate: Estimate, unit: float) -> dict[str, float | str]:
    """Return an estimate in another unit, for JSON."""
    value, spread = unit * estimate.value, unit * estimate.spread
    return {"value": value, "spread": spread, "source": estimate.source}


def radians(degrees: float | None) -> float | None:
    """Return the angle in radians; None stays None."""
    return None if degrees is None else math.radians(degrees)


def _write_depth(path: Path, depth_z: torch.Tensor) -> None:
    """Write depth as bytes, 0 at `NEAREST` to 255 at `FARTHEST`, by its logarithm."""
    height_px, width_px = depth_z.shape
    share = (depth_z.clamp(NEAREST, FARTHEST) / NEAREST).log() / math.log(FARTHEST / NEAREST)
    factor = min(1.0, DEPTH_SIDE_PX / max(height_px, width_px))
    size = (max(1, round(width_px * factor)), max(1, round(height_px * factor)))
    image = Image.fromarray((255 * share).round().byte().numpy())
    with write_aside(path) as aside:
        image.resize(size, Image.Resampling.BOX).save(aside)
