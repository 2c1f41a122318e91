"""Write the folder of a run around `reconstruct` or around sampled views."""

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
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation import health
from zeronvs.distillation.supervision import digest_view
from zeronvs.distillation.view_files import sample_kept
from zeronvs.exports.export import (
    write_view_files,
)
from zeronvs.formats.images import contact_sheet, write_image
from zeronvs.formats.video import write_video
from zeronvs.recipes.far_path import FarPath, suggest_path
from zeronvs.recipes.prepare import PreparedPhoto
from zeronvs.recipes.presets import LiftRecipe, Recipe
from zeronvs.recipes.reconstruct import model_view, reconstruct
from zeronvs.recipes.run_folder import (
    RECORD_FILE,
    SCENE_FILE,
    orbit_distances,
    path_cameras,
)
from zeronvs.recipes.scene_outputs import SceneOutputs, first_look

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
        title: Title of scene.html; None: the name of the folder.
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
        outputs = SceneOutputs(
            scene, input_view, recipe.outputs, path, distances, record["title"], out, progress
        )
        with clock.stage("render"):
            metrics, findings = outputs.render()
        health.raise_errors(findings)
        with clock.stage("export"):
            metrics |= outputs.export()
        write_json(out / "metrics.json", metrics)
        return _complete(out, record, photo, clock, findings, metrics)


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Settings of the sampler along a path; None: the model's own default."""

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
    """Return the peak memory of this process so far, and of the GPU where one was used.

    Windows does not tell that of the process without another package.
    """
    peak = {}
    if sys.platform != "win32":
        import resource

        unit = 1024.0 if sys.platform != "darwin" else 1024.0**2
        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 1024.0**2
    return {name: round(value, 1) for name, value in peak.items()}


def _camera_record(camera: Camera) -> dict[str, Any]:
    """Return one camera as plain values (OpenGL camera-to-world, scene units)."""
    return {
        "camera_to_world": camera.camera_to_world.tolist(),
        "fov_y_rad": float(camera.fov_y_rad),
        "height_px": camera.image_size_px[0],
        "width_px": camera.image_size_px[1],
    }


def _record(photo: PreparedPhoto, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the contents of run.json at the start of a run."""
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
    """Return the files of a run folder that are listed for the user."""
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
