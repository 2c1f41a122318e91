"""The page of a finished run with controls: what `zeronvs view` serves."""

from pathlib import Path
from typing import Any

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.trajectories import TRAJECTORIES
from zeronvs.cameras.view import View
from zeronvs.exports.export import render_frames, splats_of
from zeronvs.exports.page import PagePanel, write_page
from zeronvs.formats.transforms_json import read_camera_path
from zeronvs.recipes.run_folder import FinishedRun, export_cameras, path_cameras
from zeronvs.web.server import page_source

FRAMES = 72
"""Frames of a named path, as `render_run` has it: what is played is what is rendered."""
FRAMES_PER_SECOND = 24
SPLAT_STEPS = 60
"""Steps that fit splats to a radiance field whose run kept none: a draft, since one waits."""
VIEW_FOLDERS = ("sampled", "views")
"""Folders of a run with images and cameras: what the model sampled, else what was rendered."""


def write_look_page(run: FinishedRun, page: Path, *, progress: Progress = silent) -> None:
    """Write the page of a finished run with controls, whole or not at all.

    It asks its server for what it shows beside the scene (`look_routes.look_router`).

    Raises:
        InputError: The cameras of the run's views cannot be read.
        HealthError: No splat is left to show.
    """
    cameras = export_cameras(run.input_camera, run.orbit_distances, run.size_px, run.path)
    photo = run.photo
    if photo is None:
        start = run.input_camera.with_longer_side(run.size_px)
        photo = View(render_frames(run.scene, start.batched())[0][0], start)
    write_page(
        page,
        run.fitted_splats or splats_of(run.scene, cameras, SPLAT_STEPS, progress),
        camera=photo.camera,
        poster=photo.image,
        path_name=run.path,
        title=run.title,
        panel=PagePanel(
            html=page_source("look.html"),
            style=page_source("look.css"),
            script=page_source("look.js"),
            data=_panel_data(run),
        ),
    )


def view_folder(run_dir: Path) -> str | None:
    """Return which folder of a run has images with cameras; None for none."""
    listings = {name: run_dir / name / "transforms.json" for name in VIEW_FOLDERS}
    listings["views"] = run_dir / "cameras" / "transforms.json"
    return next((name for name, path in listings.items() if path.is_file()), None)


def _panel_data(run: FinishedRun) -> dict[str, Any]:
    """Return the cameras and paths that the page shows."""
    folder, views = view_folder(run.run_dir), []
    if folder is not None:
        place = run.run_dir / (folder if folder == "sampled" else "cameras")
        views = _rows(read_camera_path(place / "transforms.json"))
    paths = {}
    for name in (run.path, *(name for name in TRAJECTORIES if name != run.path)):
        try:
            paths[name] = _rows(
                path_cameras(name, run.input_camera, FRAMES, run.size_px, run.orbit_distances)
            )
        except InputError:  # this path cannot start at this camera
            continue
    height_px, width_px = run.input_camera.image_size_px
    return {
        "aspect": width_px / height_px,
        "size_px": list(run.input_camera.with_longer_side(run.size_px).image_size_px),
        "frames_per_second": FRAMES_PER_SECOND,
        "views": views,
        "paths": paths,
    }


def _rows(cameras: Camera) -> list[list[float]]:
    """Return each camera as 13 numbers: 3x4 camera-to-world row by row, vertical field of view."""
    poses = cameras.camera_to_world[:, :3].flatten(1).tolist()
    fovs_rad = cameras.fov_y_rad.tolist()
    return [
        [round(value, 5) for value in (*pose, fov)]
        for pose, fov in zip(poses, fovs_rad, strict=True)
    ]
