"""Write the folder of a run around `reconstruct` or around sampled views."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.files import read_json, write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.resumable import ResumableRun
from zeronvs._core.version import __version__
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import forward_warp
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation import health
from zeronvs.distillation.supervision import digest_view
from zeronvs.distillation.view_files import sample_kept
from zeronvs.exports.export import (
    export,
    render_frames,
    write_splats,
    write_view_files,
)
from zeronvs.formats.images import contact_sheet, write_image
from zeronvs.formats.video import write_video
from zeronvs.protocols import Scene
from zeronvs.recipes.far_path import FarPath, suggest_path
from zeronvs.recipes.prepare import PreparedPhoto
from zeronvs.recipes.presets import LiftRecipe, OutputConfig, Recipe
from zeronvs.recipes.reconstruct import model_view, reconstruct
from zeronvs.recipes.run_folder import (
    RECORD_FILE,
    SCENE_FILE,
    export_cameras,
    orbit_distances,
    path_cameras,
)
from zeronvs.scene.field_scene import FieldScene

FRAMES_PER_SECOND = 15
"""Of the videos: three seconds near the photograph, four or more all round."""

Row = tuple[str, Any, str]
"""Name, value and source of a setting."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run folder."""

    run_dir: Path
    notes: list[str]
    files: list[Path]
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


def write_scene_run(
    photo: PreparedPhoto,
    pipe: ZeroNVSPipeline | None,
    recipe: LiftRecipe | Recipe,
    out: Path,
    *,
    path: FarPath | None = None,
    seed: int = 0,
    rows: Sequence[Row] = (),
    title: str | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> RunResult:
    """Reconstruct a photograph and write the run folder `out`.

    Args:
        photo: From `prepare_photo`.
        pipe: The diffusion model, on the device to use; None where the recipe needs none.
        recipe: The recipe.
        out: The folder; must be new, empty, or hold a run with the same settings to resume.
        path: The way all round; None: of splats, the one that suits the photograph; of a field,
            the orbit.
        seed: All randomness follows from it.
        rows: Settings with their sources, for run.json.
        title: Of scene.html; None: the name of the folder.
        resume: Continue a stopped run.
        progress: Called at every step; raising `Cancelled` there ends the run.

    Raises:
        InputError: The input cannot be used, or `out` holds another run.
        HealthError: The run went wrong in a way that makes its result useless.
    """
    clock = _Clock()
    view, scene_scale = photo.view, photo.estimates.scene_scale.value
    input_view = view if isinstance(recipe, LiftRecipe) or pipe is None else model_view(view, pipe)
    if path is None:  # fields are distilled from viewpoints on an orbit
        path = suggest_path(view).name if isinstance(recipe, LiftRecipe) else "orbit"
    distances = orbit_distances(input_view)
    with ResumableRun(out) as run:
        run.claim(
            {
                "kind": "scene",
                "photo": digest_view(input_view),
                "scene_scale": scene_scale,
                "seed": seed,
                "path": path,
                **recipe.identity(),
            }
        )
        if resume and (finished := _finished(out, SCENE_FILE)):
            return finished
        record = _record(photo, rows) | {
            "input_camera": _camera_record(input_view.camera),
            "orbit_distances": distances.tolist(),
            "path": path,
            "size_px": recipe.outputs.size_px,
            "title": title or out.resolve().name,
        }
        write_json(out / RECORD_FILE, record)
        write_image(out / "input.png", view.image)
        with clock.stage("first look"):
            write_image(out / "first_look.png", first_look(view))
            progress(ProgressEvent("first_look.png", 1, 1))
        with clock.stage("reconstruct"):
            scene = reconstruct(
                view,
                pipe,
                recipe,
                scene_scale=scene_scale,
                run_dir=out,
                seed=seed,
                resume=resume,
                progress=progress,
            )
        scene.save(out / SCENE_FILE)
        outputs = _Outputs(
            scene, input_view, recipe.outputs, path, distances, record["title"], out, progress
        )
        with clock.stage("render"):
            metrics, findings = outputs.render()
        health.raise_errors(findings)
        with clock.stage("export"):
            metrics |= outputs.export()
        write_json(out / "metrics.json", metrics)
        return _complete(out, record, photo, clock, findings, metrics)


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
class _Outputs:
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
        frames, _ = render_frames(self.scene, sway, self.progress, "render views.mp4")
        write_video(self.out / "views.mp4", frames, frames_per_second=FRAMES_PER_SECOND)
        far = path_cameras(self.path, camera, config.orbit_frames, config.size_px, self.distances)
        frames, depths = render_frames(self.scene, far, self.progress, f"render {self.path}.mp4")
        write_video(self.out / f"{self.path}.mp4", frames, frames_per_second=FRAMES_PER_SECOND)
        kept = slice(0, None, max(1, config.orbit_frames // 24))
        write_view_files(self.out, frames[kept], depths[kept], far[kept])
        rendered, _ = render_frames(self.scene, camera.batched())
        metrics = {"input_view_psnr_db": _psnr_db(rendered[0], self.input_view.image)}
        sparse = far[:: max(1, config.orbit_frames // 12)].resized(32, 32)
        findings = health.check_images(frames, f"{self.path}.mp4")
        return metrics, findings + health.check_scene(self.scene, sparse)

    def export(self) -> dict[str, float]:
        """Write the page, splats and mesh; return metrics."""
        config, camera = self.config, self.input_view.camera
        cameras = export_cameras(camera, self.distances, config.size_px, self.path)
        self.progress(ProgressEvent("export ply", 0, 1))
        _, splat_psnr_db = write_splats(self.scene, cameras, self.out, steps=config.splat_steps)
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


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How views are sampled along a path; None: the model's own default."""

    samples: int = 1
    """Independent samples per camera."""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    eta: float | None = None
    batch_size: int = 8


def write_views_run(
    photo: PreparedPhoto,
    pipe: ZeroNVSPipeline,
    path: str,
    frames: int,
    out: Path,
    *,
    sampler: SamplerSettings | None = None,
    seed: int = 0,
    rows: Sequence[Row] = (),
    resume: bool = False,
    progress: Progress = silent,
) -> RunResult:
    """Sample new views of a photograph along a path, without a scene, and write the folder `out`.

    Args:
        photo: From `prepare_photo`.
        pipe: The diffusion model, on the device to use.
        path: A name of `TRAJECTORIES` or a file with cameras.
        frames: Number of views along a named path.
        out: The folder; must be new, empty, or hold a run with the same settings to resume.
        sampler: Samples per view and settings of the sampler.
        seed: Sample k uses a seed made of it and k.
        rows: Settings with their sources, for run.json.
        resume: Continue a stopped run.
        progress: Called at every step; raising `Cancelled` there ends the run.

    Raises:
        InputError: The input cannot be used, or `out` holds another run.
        HealthError: The sampled views are of no use.
    """
    clock, sampler = _Clock(), sampler or SamplerSettings()
    view = model_view(photo.view, pipe)
    cameras = path_cameras(path, view.camera, frames, pipe.image_size_px, orbit_distances(view))
    scene_scale = photo.estimates.scene_scale.value
    with ResumableRun(out) as run:
        different = {name: v for name, v in vars(sampler).items() if name != "batch_size"}
        run.claim(
            {
                "kind": "views",
                "photo": digest_view(view),
                "path": path,
                "frames": len(cameras),
                "scene_scale": scene_scale,
                "seed": seed,
                **different,
            }
        )
        if resume and (finished := _finished(out, "views.mp4")):
            return finished
        record = _record(photo, rows) | {"input_camera": _camera_record(view.camera)}
        write_json(out / RECORD_FILE, record)
        write_image(out / "input.png", photo.view.image)
        folders = [out / f"sample_{k}" for k in range(sampler.samples)]
        folders = folders if sampler.samples > 1 else [out]
        with clock.stage("sample views"):
            images = _sample_path(
                pipe, view, cameras, folders, scene_scale, sampler, seed, resume, progress
            )
        findings = health.check_images(images, "the sampled views")
        health.raise_errors(findings)
        for sample, folder in enumerate(folders):
            of_sample = images[sample :: sampler.samples]
            write_view_files(folder, of_sample, None, cameras)
            write_video(folder / "views.mp4", of_sample)
        if sampler.samples > 1:
            write_image(out / "sheet.png", contact_sheet(images, columns=sampler.samples))
        return _complete(out, record, photo, clock, findings, {})


def _sample_path(
    pipe: ZeroNVSPipeline,
    view: View,
    cameras: Camera,
    folders: list[Path],
    scene_scale: float,
    sampler: SamplerSettings,
    seed: int,
    resume: bool,
    progress: Progress,
) -> Float[Tensor, "n 3 h w"]:
    """Sample all views, camera by camera, each kept as soon as it is drawn."""
    paths = [f / "views" / f"{k:03d}.png" for k in range(len(cameras)) for f in folders]
    repeated = cameras[torch.arange(len(cameras)).repeat_interleave(len(folders))]
    condition = pipe.encode(view, scene_scale)
    return sample_kept(
        lambda indices, report: pipe.sample(
            condition,
            repeated[torch.tensor(indices)],
            [seed * 100_000 + k for k in indices],
            num_inference_steps=sampler.num_inference_steps,
            guidance_scale=sampler.guidance_scale,
            eta=sampler.eta,
            batch_size=sampler.batch_size,
            callback=report,
        ),
        paths,
        batch_size=sampler.batch_size,
        resume=resume,
        progress=progress,
    )


class _Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return round(time.monotonic() - self._began, 2)


def peak_memory_mib() -> dict[str, float]:
    """Return the peak memory of this process so far, and of the GPU where one was used."""
    unit = 1024.0 if sys.platform != "darwin" else 1024.0**2
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 1024.0**2
    return {name: round(value, 1) for name, value in peak.items()}


def _psnr_db(image: Float[Tensor, "3 h w"], truth: Float[Tensor, "3 h w"]) -> float:
    return float(-10 * torch.log10((image - truth).square().mean().clamp_min(1e-10)))


def _camera_record(camera: Camera) -> dict[str, Any]:
    """Return one camera as plain values (OpenGL camera-to-world, scene units)."""
    return {
        "camera_to_world": camera.camera_to_world.tolist(),
        "fov_y_rad": float(camera.fov_y_rad),
        "height_px": camera.image_size_px[0],
        "width_px": camera.image_size_px[1],
    }


def _record(photo: PreparedPhoto, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what run.json records of how a run was made."""
    names = ("fov_y_rad", "elevation_rad", "scene_scale")
    return {
        "program": f"zeronvs {__version__}",
        "torch": torch.__version__,
        "status": "running",
        "settings": [{"name": n, "value": v, "source": s} for n, v, s in rows],
        "estimates": {name: vars(getattr(photo.estimates, name)) for name in names},
    }


def _complete(
    out: Path,
    record: dict[str, Any],
    photo: PreparedPhoto,
    clock: _Clock,
    findings: Sequence[health.Finding],
    metrics: dict[str, float],
) -> RunResult:
    """Write run.json of a finished run and return the result."""
    notes = [*photo.notes, *(finding.message for finding in findings)]
    record |= {
        "status": "complete",
        "seconds": clock.seconds,
        "total_seconds": clock.total,
        "peak_memory_mib": peak_memory_mib(),
        "findings": [vars(finding) for finding in findings],
        "metrics": metrics,
        "notes": notes,
    }
    write_json(out / RECORD_FILE, record)
    return RunResult(
        run_dir=out, notes=notes, files=_files(out), seconds=clock.total, metrics=metrics
    )


def _finished(out: Path, result: str) -> RunResult | None:
    """Return the result of a finished run; None where it is not finished, or lacks `result`."""
    try:
        record = read_json(out / RECORD_FILE)
        if record["status"] != "complete" or not (out / result).is_file():
            return None
        return RunResult(
            run_dir=out,
            notes=[*map(str, record["notes"]), "This run was complete already."],
            files=_files(out),
            seconds=float(record["total_seconds"]),
            metrics={str(name): float(value) for name, value in record["metrics"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged record is written anew


def _files(out: Path) -> list[Path]:
    """Return the files of a run folder that a person looks for."""
    names = (
        "scene.html",
        "views.mp4",
        "orbit.mp4",
        "around.mp4",
        "sheet.png",
        "scene/scene.ply",
        "scene/mesh.glb",
        "cameras/transforms.json",
        RECORD_FILE,
    )
    return [out / name for name in names if (out / name).exists()]
