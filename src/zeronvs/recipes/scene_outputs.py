"""Videos, views and files of a finished scene in its run folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.progress import Progress, ProgressEvent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import forward_warp
from zeronvs.distillation import health
from zeronvs.exports.export import export, render_frames, write_splats, write_view_files
from zeronvs.formats.video import write_video
from zeronvs.protocols import Scene
from zeronvs.recipes.far_path import FarPath
from zeronvs.recipes.presets import OutputConfig
from zeronvs.recipes.run_folder import export_cameras, path_cameras
from zeronvs.scene.field_scene import FieldScene

FRAMES_PER_SECOND = 15
"""Frame rate of the videos: two seconds near the photograph, four all round."""


def first_look(view: View, turn_rad: float = 0.15) -> Float[Tensor, "3 h w"]:
    """Return the photograph seen from the left, as it is, and from the right, in a row.

    One forward warp along its depth each: seconds, not minutes.
    """
    assert view.depth_z is not None
    camera = view.camera.with_longer_side(min(320, max(view.camera.image_size_px)))
    small = view.resized(*camera.image_size_px)
    elevation_rad, distance = camera.elevation_rad, camera.position.norm()
    poses = [
        orbit_pose(torch.tensor(azimuth_rad), elevation_rad, distance)
        for azimuth_rad in (-turn_rad, turn_rad)
    ]
    both = Camera.stack([camera.with_poses(pose) for pose in poses])
    moved, _ = forward_warp(View.stack([small, small]), both)
    return torch.cat([moved[0], small.image, moved[1]], dim=-1)


@dataclass(frozen=True, eq=False)
class SceneOutputs:
    """What is rendered and exported of a finished scene."""

    scene: Scene
    input_view: View
    config: OutputConfig
    path: FarPath
    distances: Tensor
    title: str
    out: Path
    progress: Progress

    def render(self) -> tuple[dict[str, float], list[health.Finding]]:
        """Write the videos and views; return metrics and what is wrong with the images."""
        config, camera = self.config, self.input_view.camera
        near_px = min(config.near_size_px, max(camera.image_size_px))
        sway = path_cameras("lemniscate", camera, config.sway_frames, near_px)
        near, _ = render_frames(self.scene, sway, self.progress, "render views.mp4")
        write_video(self.out / "views.mp4", near, frames_per_second=FRAMES_PER_SECOND)
        far = path_cameras(self.path, camera, config.orbit_frames, config.size_px, self.distances)
        frames, depths = render_frames(self.scene, far, self.progress, f"render {self.path}.mp4")
        write_video(self.out / f"{self.path}.mp4", frames, frames_per_second=FRAMES_PER_SECOND)
        kept = slice(0, None, max(1, config.orbit_frames // 24))
        write_view_files(self.out, frames[kept], depths[kept], far[kept])
        rendered, _ = render_frames(self.scene, camera.batched())
        metrics = {"input_view_psnr_db": _psnr_db(rendered[0], self.input_view.image)}
        sparse = far[:: max(1, config.orbit_frames // 12)].resized(32, 32)
        # What is lifted from one photograph may show nothing from behind; near it never may.
        if isinstance(self.scene, FieldScene):
            findings = health.check_images(frames, f"{self.path}.mp4")
        else:
            findings = health.check_images(near, "views.mp4")
        return metrics, findings + health.check_scene(self.scene, sparse)

    def export(self) -> dict[str, float]:
        """Write splats, and the page of splats or the mesh of a field; return metrics."""
        config, camera = self.config, self.input_view.camera
        cameras = export_cameras(camera, self.distances, config.size_px, self.path)
        self.progress(ProgressEvent("export ply", 0, 1))
        _, splat_psnr_db = write_splats(
            self.scene, cameras, self.out, steps=config.splat_steps, photo=self.input_view
        )
        self.progress(ProgressEvent("export ply", 1, 1))
        export(
            self.scene,
            cameras,
            ("glb",) if isinstance(self.scene, FieldScene) else ("html",),
            self.out,
            mesh_resolution=config.mesh_resolution,
            photo=self.input_view,
            path_name=self.path,
            title=self.title,
            progress=self.progress,
        )
        return {} if splat_psnr_db is None else {"splat_psnr_db": splat_psnr_db}


def _psnr_db(image: Float[Tensor, "3 h w"], truth: Float[Tensor, "3 h w"]) -> float:
    return float(-10 * torch.log10((image - truth).square().mean().clamp_min(1e-10)))
