"""A finished run folder: open it, render it, export it; camera paths by name."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, read_text
from zeronvs._core.progress import Progress, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.trajectories import make_trajectory
from zeronvs.cameras.view import View
from zeronvs.distillation.surround import free_orbit
from zeronvs.distillation.view_files import read_image
from zeronvs.exports.export import (
    FITTED_FILE,
    Format,
    export,
    render_frames,
)
from zeronvs.exports.page import MAX_EMBEDDED_BYTES, ScenePage
from zeronvs.exports.splat_files import FileConfig
from zeronvs.formats.camera_path import path_file
from zeronvs.formats.transforms_json import read_camera_path
from zeronvs.formats.video import check_video_suffix, write_video
from zeronvs.protocols import Scene
from zeronvs.recipes.far_path import FarPath
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.load import load_scene
from zeronvs.scene.splat_scene import SplatScene

RECORD_FILE = "run.json"
SCENE_FILE = "scene/scene.safetensors"
PAGE_FILE = "scene.html"
MAX_SIDE_PX = 8192
"""Largest image side that a run folder may ask for."""
PATH_FRAMES = 72
"""Cameras along the run's own path all round, three seconds of video."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run folder whose scene is finished."""

    run_dir: Path
    scene: Scene
    input_camera: Camera
    """Camera of the photograph, or of its central square, at the canonical pose."""
    orbit_distances: Float[Tensor, " n"]
    """Camera distances of the orbit, at evenly spaced azimuths from 0."""
    size_px: int
    """Longer side of the run's renders."""
    path: FarPath
    """The path all round that suits the photograph."""
    title: str
    """Title of scene.html."""

    @property
    def photo(self) -> View | None:
        """The photograph at its camera; None where it is gone.

        Raises:
            InputError: Its file is damaged, too large, or no ordinary file.
        """
        path = self.run_dir / "input.png"
        if not path.exists():
            return None
        pixels = read_image(path)
        return View(pixels, self.input_camera.resized(*pixels.shape[1:]))

    @property
    def fitted_splats(self) -> SplatScene | None:
        """The splats that were fitted to a radiance field; None where there are none."""
        path = self.run_dir / FITTED_FILE
        kept = isinstance(self.scene, FieldScene) and path.is_file()
        return SplatScene.load(path) if kept else None

    def _repr_html_(self) -> str:
        """Return the run's page for a notebook, or why there is none."""
        page = self.run_dir / PAGE_FILE
        try:
            return ScenePage(read_text(page, max_bytes=MAX_EMBEDDED_BYTES))._repr_html_()
        except InputError as error:
            return f"<p>{html.escape(str(error))}</p>"


def open_run(run_dir: Path | str, device: torch.device | str = "cpu") -> FinishedRun:
    """Open a run folder whose scene is finished.

    Raises:
        InputError: It is no run folder, it is damaged, or its scene is not finished.
    """
    run_dir = Path(run_dir)
    try:
        record = read_json(run_dir / RECORD_FILE)
        camera = _recorded_camera(record["input_camera"])
        distances = torch.tensor(record["orbit_distances"], dtype=torch.float32)
        size_px = int(record.get("size_px", max(camera.image_size_px)))  # older runs lack it
        usable = distances.ndim == 1 and len(distances) > 0 and bool((distances > 0).all())
        if not (usable and bool(distances.isfinite().all()) and 1 <= size_px <= MAX_SIDE_PX):
            raise ValueError("numbers out of range")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise InputError(
            f"{run_dir} is not a run folder (no usable {RECORD_FILE}). Give a folder that "
            "`zeronvs scene` made."
        ) from error
    if not (run_dir / SCENE_FILE).is_file():
        raise InputError(
            f"{run_dir} has no finished scene yet. Finish it with: zeronvs scene ... --resume"
        )
    return FinishedRun(
        run_dir=run_dir,
        scene=load_scene(run_dir / SCENE_FILE, device),
        input_camera=camera,
        orbit_distances=distances,
        size_px=size_px,
        path="around" if record.get("path") == "around" else "orbit",
        title=str(record.get("title", run_dir.resolve().name)),
    )


def render_run(
    run: FinishedRun,
    *,
    path: str | None = None,
    frames: int = PATH_FRAMES,
    size_px: int | None = None,
    frames_per_second: int = 24,
    out: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """Render a video of a finished run and return its path.

    Args:
        run: From `open_run`.
        path: A name of `TRAJECTORIES` or a file with cameras; None: the run's own path all round.
        frames: Number of frames of a named path.
        size_px: Longer side of the frames; None: the run's own.
        frames_per_second: Frames per second of the video.
        out: The video file (.mp4, .webm or .gif); None: renders/PATH.mp4 in the run folder.
        progress: Called at every frame.

    Raises:
        InputError: There is no such path, or the video has another suffix.
    """
    if out is not None:
        check_video_suffix(out)
    path = path or run.path
    cameras = path_cameras(
        path, run.input_camera, frames, size_px or run.size_px, run.orbit_distances
    )
    images, _ = render_frames(run.scene, cameras, progress)
    out = out or run.run_dir / "renders" / f"{Path(path).stem}.mp4"
    write_video(out, images, frames_per_second=frames_per_second)
    return out


def export_run(
    run: FinishedRun,
    formats: Sequence[Format],
    *,
    config: FileConfig | None = None,
    out: Path | None = None,
    progress: Progress = silent,
) -> list[Path]:
    """Export a finished run for other programs (see `export`) and return the files."""
    along = path_cameras(run.path, run.input_camera, PATH_FRAMES, run.size_px, run.orbit_distances)
    cameras = export_cameras(run.input_camera, run.orbit_distances, run.size_px, run.path)
    return export(
        run.scene,
        cameras,
        formats,
        out or run.run_dir,
        config=config,
        fitted=run.fitted_splats,
        photo=run.photo,
        path=along,
        path_name=run.path,
        title=run.title,
        progress=progress,
    )


def path_cameras(
    path: str, input_camera: Camera, frames: int, size_px: int, orbit: Tensor | None = None
) -> Camera:
    """Return the cameras of a named path, or of a file with cameras.

    Args:
        path: A name of `TRAJECTORIES`, or a file.
        input_camera: Where named paths start.
        frames: Number of cameras along a named path.
        size_px: Longer side of the images; their shape is the input camera's.
        orbit: Camera distances of the orbit at evenly spaced azimuths; None: the distance of the
            input camera.

    Raises:
        InputError: There is no such path, or the file cannot be read.
    """
    camera = input_camera.with_longer_side(size_px)
    if path == "orbit" and orbit is not None:
        return _orbit_at_distances(camera, frames, orbit)
    file = path_file(path)
    if file is None:
        return make_trajectory(path, camera, frames)
    return read_camera_path(file, image_size_px=camera.image_size_px)


def _orbit_at_distances(camera: Camera, frames: int, distances: Tensor) -> Camera:
    circle = make_trajectory("orbit", camera, frames)
    # Position of each frame among the given azimuths, then linear interpolation between the two
    # nearest; the last azimuth is followed by the first.
    position = torch.arange(frames) / frames * len(distances)
    low = position.long() % len(distances)
    high = (low + 1) % len(distances)
    distance = torch.lerp(distances[low], distances[high], position - position.floor())
    poses = circle.camera_to_world.clone()
    poses[:, :3, 3] *= (distance / camera.position.norm())[:, None]
    return circle.with_poses(poses)


def orbit_distances(input_view: View, count: int = 72) -> Float[Tensor, " count"]:
    """Return the camera distances of the orbit around a photograph's scene."""
    azimuth_rad = torch.arange(count) * (2 * math.pi / count)
    return free_orbit(input_view, azimuth_rad).position.norm(dim=-1)


def export_cameras(
    input_camera: Camera, distances: Tensor, size_px: int, path: FarPath = "orbit"
) -> Camera:
    """Return cameras that together see the scene: all round, and near the photograph."""
    orbit = path_cameras(path, input_camera, 16, size_px, distances)
    near = make_trajectory("lemniscate", input_camera.with_longer_side(size_px), 8)
    return Camera.cat([orbit, near])


def _recorded_camera(record: Mapping[str, Any]) -> Camera:
    size_px = (int(record["height_px"]), int(record["width_px"]))
    pose, fov_y_rad = torch.tensor(record["camera_to_world"]), float(record["fov_y_rad"])
    if not (bool(pose.isfinite().all()) and 0 < fov_y_rad < math.pi):
        raise ValueError("the camera is not finite")
    if max(size_px) > MAX_SIDE_PX:
        raise ValueError("the camera's image is too large")
    return Camera.from_fov(pose, fov_y_rad, size_px)
