"""A run folder: what lies where, and what can be made of a finished one.

OUT/  run.json   input.png   cameras/transforms.json   views/000.png ...   depth/000.png ...
      views.mp4  orbit.mp4   sheet.png                 log.jsonl           metrics.json
      scene/scene.safetensors   scene.ply   mesh.glb   sampled/, anchors/ (what the model drew)
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.trajectories import TRAJECTORIES, make_trajectory
from zeronvs.cameras.view import View
from zeronvs.distillation.surround import free_orbit
from zeronvs.export.cameras_json import write_transforms
from zeronvs.export.field_splats import FieldSplatsConfig, splat_psnr, splats_from_scene
from zeronvs.export.mesh import write_mesh
from zeronvs.export.overlay import depth_colours
from zeronvs.formats.images import contact_sheet, write_image
from zeronvs.formats.ply import write_splat_ply
from zeronvs.formats.transforms_json import read_camera_path
from zeronvs.formats.video import write_video
from zeronvs.scene.scene import Scene

SCENE_FILE = "scene/scene.safetensors"
GREY = (0.5, 0.5, 0.5)
"""Behind the scene in everything rendered, as in the published evaluation."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run folder whose scene is done."""

    run_dir: Path
    record: dict[str, Any]
    """run.json."""
    scene: Scene
    input_camera: Camera
    """The photo's camera, at the canonical pose."""
    orbit_distances: Float[Tensor, " n"]
    """Distances of the free orbit, evenly around from azimuth 0."""


def open_run(run_dir: Path, device: str = "cpu") -> FinishedRun:
    """Open a run folder whose scene is done.

    Raises:
        InputError: It is no run folder, or its scene is not done.
    """
    try:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        lens = record["input_camera"]
        size = (int(lens["height_px"]), int(lens["width_px"]))
        camera = Camera.from_fov(
            torch.tensor(lens["camera_to_world"]), float(lens["fov_y_rad"]), size
        )
        distances = torch.tensor(record["orbit_distances"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run_dir} is not a run folder (no usable run.json). Give a folder that "
            "`zeronvs scene` made."
        ) from error
    if not (run_dir / SCENE_FILE).exists():
        raise InputError(
            f"{run_dir} has no finished scene yet. Finish it with: zeronvs scene ... --resume"
        )
    scene = Scene.load(run_dir / SCENE_FILE, device)
    return FinishedRun(
        run_dir=run_dir,
        record=record,
        scene=scene,
        input_camera=camera,
        orbit_distances=distances,
    )


def camera_record(camera: Camera) -> dict[str, Any]:
    """Return one camera as plain values for run.json (OpenGL camera-to-world, scene units)."""
    return {
        "camera_to_world": camera.camera_to_world.tolist(),
        "fov_y_rad": float(camera.fov_y_rad),
        "height_px": camera.image_size_px[0],
        "width_px": camera.image_size_px[1],
    }


def path_cameras(
    path: str, input_camera: Camera, frames: int, size_px: int, orbit: Tensor | None = None
) -> Camera:
    """Return the cameras of a named path, or of a file with cameras.

    Args:
        path: A name of `TRAJECTORIES`, or a file.
        input_camera: Where named paths start.
        frames: Cameras along a named path.
        size_px: Height and width of the images.
        orbit: Distances of a free orbit, evenly around; the circle of the input camera if None.

    Raises:
        InputError: No such path, or a file that cannot be read.
    """
    camera = input_camera.resized(size_px, size_px)
    if path == "orbit" and orbit is not None:
        return _free_circle(camera, frames, orbit)
    if path in TRAJECTORIES:
        return make_trajectory(path, camera, frames)
    if not Path(path).exists():
        raise InputError(
            f"--path {path}: no path and no file has that name; the paths are "
            f"{', '.join(TRAJECTORIES)}"
        )
    return read_camera_path(Path(path), image_size_px=(size_px, size_px))


def _free_circle(camera: Camera, frames: int, distances: Tensor) -> Camera:
    circle = make_trajectory("orbit", camera, frames)
    place = torch.arange(frames) / frames * len(distances)
    low = place.long() % len(distances)
    high = (low + 1) % len(distances)
    factor = torch.lerp(distances[low], distances[high], place - place.floor())
    factor = factor / distances[0]
    poses = circle.camera_to_world.clone()
    poses[:, :3, 3] *= factor[:, None]
    return circle.with_poses(poses)


def orbit_distances(input_view: View, elevation_rad: float, count: int = 72) -> Tensor:
    """Return the distances of the free orbit around a photo's scene, evenly around."""
    azimuth_rad = torch.arange(count) * (2 * math.pi / count)
    return free_orbit(input_view, elevation_rad, azimuth_rad).position.norm(dim=-1)


@torch.no_grad()
def render_frames(
    scene: Scene, cameras: Camera, progress: Progress = silent, stage: str = "render"
) -> tuple[
    Float[Tensor, "n 3 h w"],  # RGB over grey
    Float[Tensor, "n h w"],  # depth along the optical axis, scene units
]:
    """Render one image per camera."""
    grey = torch.tensor(GREY, device=scene.device)
    images, depths = [], []
    for index in range(len(cameras)):
        seen = scene.render(cameras[[index]].to(scene.device), background=grey)
        images.append(seen.rgb.cpu())
        depths.append(seen.depth_z.cpu())
        progress(ProgressEvent(stage, index + 1, len(cameras)))
    return torch.cat(images), torch.cat(depths)


def render_run(
    run_dir: Path,
    *,
    path: str = "orbit",
    frames: int = 72,
    size_px: int | None = None,
    frames_per_second: int = 24,
    out: Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Render a video of a finished run and return where it lies.

    Args:
        run_dir: What `zeronvs scene` made.
        path: A named path or a file with cameras.
        frames: Frames of a named path.
        size_px: Side of the frames; the run's own if None.
        frames_per_second: Frames a second.
        out: The video; renders/PATH.mp4 in the run folder if None.
        device: Where to render.
        progress: Told of every frame.

    Raises:
        InputError: The folder is no finished run, or there is no such path.
    """
    run = open_run(run_dir, device or "cpu")
    size_px = size_px or int(run.record["settings"]["output_size_px"])
    cameras = path_cameras(path, run.input_camera, frames, size_px, run.orbit_distances)
    images, _ = render_frames(run.scene, cameras, progress)
    out = out or run_dir / "renders" / f"{Path(path).stem}.mp4"
    write_video(out, images, frames_per_second=frames_per_second)
    return out


def export_run(
    run_dir: Path,
    formats: Sequence[str] = ("ply", "glb", "nerfstudio"),
    *,
    out: Path | None = None,
    device: str | None = None,
    splat_steps: int = 300,
    mesh_resolution: int = 192,
    progress: Progress = silent,
) -> list[Path]:
    """Write files of a finished run for other programs and return where they lie.

    Args:
        run_dir: What `zeronvs scene` made.
        formats: Of "ply" (splats), "glb" (mesh), "nerfstudio" (images and transforms.json).
        out: The folder to write to; the run folder if None.
        device: Where to render.
        splat_steps: Gradient steps that make the splats look like the field.
        mesh_resolution: Cells along each side of the mesh's box.
        progress: Told of what is done.

    Raises:
        InputError: The folder is no finished run.
        HealthError: There is no surface to make a mesh of.
    """
    run = open_run(run_dir, device or "cpu")
    folder = out or run_dir
    written: list[Path] = []
    size_px = int(run.record["settings"]["output_size_px"])
    if "ply" in formats:
        path, _ = write_scene_splats(
            run.scene, export_cameras(run.input_camera, run.orbit_distances), folder, splat_steps
        )
        written.append(path)
    if "glb" in formats:
        around = path_cameras("orbit", run.input_camera, 16, 64, run.orbit_distances)
        written.append(write_scene_mesh(run.scene, around, folder, mesh_resolution))
        progress(ProgressEvent("export mesh", 1, 1))
    if "nerfstudio" in formats:
        cameras = path_cameras("orbit", run.input_camera, 24, size_px, run.orbit_distances)
        images, depths = render_frames(run.scene, cameras, progress, "export views")
        written.append(write_view_files(folder, images, depths, cameras))
    return written


def export_cameras(input_camera: Camera, distances: Tensor, size_px: int = 128) -> Camera:
    """Return cameras that together see the scene: the free orbit and a ring above it."""
    low = path_cameras("orbit", input_camera, 16, size_px, distances)
    near = make_trajectory("lemniscate", input_camera.resized(size_px, size_px), 8)
    return Camera.cat([low, near])


def write_scene_splats(
    scene: Scene, cameras: Camera, folder: Path, steps: int
) -> tuple[Path, float]:
    """Write scene.ply; return it with the PSNR (dB) between splat and field renders."""
    splats = splats_from_scene(scene, cameras, FieldSplatsConfig(refine_steps=steps))
    path = folder / "scene" / "scene.ply"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_splat_ply(path, splats)
    with torch.no_grad():
        return path, splat_psnr(splats, scene, cameras[::4])


def write_scene_mesh(scene: Scene, cameras: Camera, folder: Path, resolution: int) -> Path:
    """Write mesh.glb, the surface that the cameras see, and return where it lies."""
    path = folder / "scene" / "mesh.glb"
    write_mesh(path, scene, cameras=cameras, resolution=resolution)
    return path


def write_view_files(
    folder: Path,
    images: Float[Tensor, "n 3 h w"],
    depths: Float[Tensor, "n h w"] | None,
    cameras: Camera,
) -> Path:
    """Write views/, depth/, a contact sheet and cameras/transforms.json; return the last."""
    paths = []
    for index, image in enumerate(images):
        paths.append(folder / "views" / f"{index:03d}.png")
        write_image(paths[-1], image)
    if depths is not None:
        for index, depth_z in enumerate(depths):
            coloured = depth_colours(depth_z.clamp_max(50.0), depth_z.shape[-1])
            write_image(folder / "depth" / f"{index:03d}.png", coloured)
    write_image(folder / "sheet.png", contact_sheet(images))
    transforms = folder / "cameras" / "transforms.json"
    write_transforms(transforms, cameras, paths)
    return transforms


def write_record(run_dir: Path, record: dict[str, Any]) -> None:
    """Write run.json, whole or not at all."""
    write_json(run_dir / "run.json", record)
