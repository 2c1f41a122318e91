"""The whole story: one photograph in, a 360-degree scene out. Read this file first.

    photo -> camera (field of view, elevation, scale, depth) -> what the model knows of the photo
          -> views sampled around the scene, anchors -> a radiance field -> files

`reconstruct` goes all the way. `sample_views` stops after the model: no scene is made.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.version import __version__
from zeronvs.distillation import health
from zeronvs.distillation.loop import distill
from zeronvs.distillation.supervision import SupervisedViews, digest_view
from zeronvs.distillation.surround import sample_surround
from zeronvs.distillation.view_files import load_supervised, sample_kept, save_supervised
from zeronvs.formats.images import contact_sheet, write_image
from zeronvs.formats.video import write_video
from zeronvs.recipes.presets import Preset
from zeronvs.recipes.run_folder import (
    SCENE_FILE,
    camera_record,
    export_cameras,
    orbit_distances,
    path_cameras,
    render_frames,
    write_record,
    write_scene_mesh,
    write_scene_splats,
    write_view_files,
)
from zeronvs.recipes.settings import (
    PhotoSettings,
    Resolved,
    Row,
    SceneSettings,
    ViewsSettings,
    resolve,
)
from zeronvs.scene.scene import Scene


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came out."""

    run_dir: Path
    rows: list[Row]
    notes: list[str]
    files: list[Path]
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


def reconstruct(settings: SceneSettings, progress: Progress = silent) -> RunResult:
    """Make a 360-degree scene of one photograph, in the run folder `settings.out`.

    Raises:
        InputError: The input cannot be used; nothing is half-written.
        HealthError: The run went wrong in a way that makes its result useless.
    """
    clock = _Clock()
    with clock.stage("prepare"):
        resolved = resolve(settings)
    preset, view, out = resolved.preset, resolved.input_view, settings.out
    assert preset is not None
    elevation_rad = resolved.estimate.elevation_rad.value
    scene_scale = resolved.estimate.scene_scale.value
    distances = orbit_distances(view, elevation_rad)
    record = _record(settings, resolved, "running") | {
        "input_camera": camera_record(view.camera),
        "orbit_distances": distances.tolist(),
    }
    if settings.resume:
        finished = _check_same_run(settings, record, resolved.rows)
        if finished is not None:
            return finished
    write_record(out, record)
    write_image(out / "input.png", resolved.photo.image)

    supervised = None
    if preset.surround is not None:
        with clock.stage("sample views"):
            supervised = _surround(settings, resolved, preset, progress)
    with clock.stage("fit the scene"):
        scene = distill(
            resolved.pipe,
            view,
            elevation_rad,
            scene_scale,
            preset.distill,
            run_dir=out,
            seed=settings.seed,
            device=resolved.device,
            supervised=supervised,
            progress=progress,
            resume=settings.resume,
        )
        scene.save(out / SCENE_FILE)
    metrics, findings = _write_outputs(scene, resolved, distances, out, clock, progress)
    notes = [*resolved.photo.notes, *(finding.message for finding in findings)]
    record |= {
        "status": "complete",
        "seconds": clock.seconds,
        "total_seconds": clock.total,
        "peak_memory_mib": peak_memory_mib(),
        "findings": [vars(finding) for finding in findings],
        "notes": notes,
    }
    write_json(out / "metrics.json", metrics)
    write_record(out, record)
    return RunResult(
        run_dir=out,
        rows=resolved.rows,
        notes=notes,
        files=_files(out),
        seconds=clock.total,
        metrics=metrics,
    )


def _check_same_run(
    settings: PhotoSettings, record: dict[str, Any], rows: list[Row]
) -> RunResult | None:
    """Return what the run folder holds, where its run is finished.

    Raises:
        InputError: The folder holds a run of another photo or with other settings.
    """
    out = settings.out
    try:
        old = json.loads((out / "run.json").read_text(encoding="utf-8"))
        told, now = old["settings"], json.loads(json.dumps(record["settings"]))
        photo_then = old["photo_fingerprint"]
    except (OSError, ValueError, KeyError):
        return None
    # The folder and the photo may have been moved; what the photo shows is compared.
    names = sorted({*told, *now} - {"resume", "out", "photo", "device", "batch_size"})
    other = [f"{n}: {told.get(n)}, now {now.get(n)}" for n in names if told.get(n) != now.get(n)]
    if photo_then != record["photo_fingerprint"]:
        other.append("another photo or camera")
    if other:
        raise InputError(
            f"{out} holds a run with other settings ({'; '.join(other)}). Give the same ones to go "
            "on with it, or another folder."
        )
    if old.get("status") != "complete":
        return None
    metrics = out / "metrics.json"
    return RunResult(
        run_dir=out,
        rows=rows,
        notes=[*old["notes"], "This run was finished already; nothing was made anew."],
        files=_files(out),
        seconds=float(old["total_seconds"]),
        metrics=json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {},
    )


def _surround(
    settings: SceneSettings, resolved: Resolved, preset: Preset, progress: Progress
) -> SupervisedViews:
    """Sample the views around the scene, or read those that a stopped run has sampled already."""
    assert preset.surround is not None
    folder = settings.out / "sampled"
    kept = load_supervised(folder) if settings.resume else None
    if kept is not None and len(kept.views) == preset.surround.count:
        return kept
    sampled = sample_surround(
        resolved.pipe,
        resolved.input_view,
        resolved.estimate.elevation_rad.value,
        resolved.estimate.scene_scale.value,
        preset.surround,
        seed=settings.seed,
        folder=folder,
        geometry_estimator=resolved.geometry_estimator,
        resume=settings.resume,
        progress=progress,
    )
    health.raise_errors(health.check_images(sampled.views.image, "the sampled views"))
    save_supervised(folder, sampled)
    return sampled


def _write_outputs(
    scene: Scene,
    resolved: Resolved,
    distances: torch.Tensor,
    out: Path,
    clock: "_Clock",
    progress: Progress,
) -> tuple[dict[str, float], list[health.Finding]]:
    """Render, export and check the finished scene."""
    assert resolved.preset is not None
    outputs, camera = resolved.preset.outputs, resolved.input_view.camera
    metrics: dict[str, float] = {}
    with clock.stage("render"):
        orbit = path_cameras("orbit", camera, outputs.orbit_frames, outputs.size_px, distances)
        frames, depths = render_frames(scene, orbit, progress, "render the orbit")
        write_video(out / "orbit.mp4", frames)
        sway = path_cameras("lemniscate", camera, outputs.sway_frames, outputs.size_px)
        near_frames, _ = render_frames(scene, sway, progress, "render views")
        write_video(out / "views.mp4", near_frames)
        kept = slice(0, None, max(1, outputs.orbit_frames // 24))
        write_view_files(out, frames[kept], depths[kept], orbit[kept])
        photo = resolved.input_view
        seen, _ = render_frames(scene, photo.camera.batched())
        error = (seen[0] - photo.image).square().mean()
        metrics["input_view_psnr_db"] = float(-10 * torch.log10(error.clamp_min(1e-10)))
    findings = health.check_images(frames, "the orbit") + health.check_scene(
        scene, orbit[:: max(1, outputs.orbit_frames // 12)].resized(32, 32)
    )
    health.raise_errors(findings)
    with clock.stage("export"):
        progress(ProgressEvent("export splats", 0, 1))
        cameras = export_cameras(camera, distances)
        _, metrics["splat_psnr_db"] = write_scene_splats(scene, cameras, out, outputs.splat_steps)
        progress(ProgressEvent("export splats", 1, 1))
        progress(ProgressEvent("export mesh", 0, 1))
        around = path_cameras("orbit", camera, 16, 64, distances)
        write_scene_mesh(scene, around, out, outputs.mesh_resolution)
        progress(ProgressEvent("export mesh", 1, 1))
    return metrics, findings


def sample_views(settings: ViewsSettings, progress: Progress = silent) -> RunResult:
    """Sample new views of one photograph along a path; no scene is made.

    Raises:
        InputError: The input cannot be used; nothing is half-written.
        HealthError: The sampled views are of no use.
    """
    clock = _Clock()
    with clock.stage("prepare"):
        resolved = resolve(settings)
    pipe, view = resolved.pipe, resolved.input_view
    distances = orbit_distances(view, resolved.estimate.elevation_rad.value)
    cameras = path_cameras(
        settings.path, view.camera, settings.frames, pipe.image_size_px, distances
    )
    out = settings.out
    record = _record(settings, resolved, "running")
    if settings.resume:
        finished = _check_same_run(settings, record, resolved.rows)
        if finished is not None:
            return finished
    write_record(out, record)
    write_image(out / "input.png", resolved.photo.image)
    many = settings.samples > 1
    folders = [out / f"sample_{k}" if many else out for k in range(settings.samples)]
    paths = [f / "views" / f"{k:03d}.png" for k in range(len(cameras)) for f in folders]
    with clock.stage("sample views"):
        repeated = cameras[torch.arange(len(cameras)).repeat_interleave(settings.samples)]
        condition = pipe.encode(view, resolved.estimate.scene_scale.value)
        images = sample_kept(
            lambda rows, tell: pipe.sample(
                condition,
                repeated[torch.tensor(rows)],
                [settings.seed * 100_000 + k for k in rows],
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                eta=settings.eta,
                batch_size=settings.batch_size,
                callback=tell,
            ),
            paths,
            batch_size=settings.batch_size,
            resume=settings.resume,
            progress=progress,
        )
    findings = health.check_images(images, "the sampled views")
    health.raise_errors(findings)
    for sample, folder in enumerate(folders):
        chosen = images[sample :: settings.samples]
        write_view_files(folder, chosen, None, cameras)
        write_video(folder / "views.mp4", chosen)
    if many:
        write_image(out / "sheet.png", contact_sheet(images, columns=settings.samples))
    notes = [*resolved.photo.notes, *(finding.message for finding in findings)]
    record |= {
        "status": "complete",
        "input_camera": camera_record(view.camera),
        "seconds": clock.seconds,
        "total_seconds": clock.total,
        "peak_memory_mib": peak_memory_mib(),
        "notes": notes,
    }
    write_record(out, record)
    return RunResult(
        run_dir=out, rows=resolved.rows, notes=notes, files=_files(out), seconds=clock.total
    )


class _Clock:
    """Seconds that each stage took."""

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
    """Return the highest memory of this process so far, and of the GPU where one was used."""
    unit = 1024.0 if sys.platform != "darwin" else 1024.0**2
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 1024.0**2
    return {name: round(value, 1) for name, value in peak.items()}


def _record(settings: PhotoSettings, resolved: Resolved, status: str) -> dict[str, Any]:
    """Return what run.json says of how the run was made."""
    estimates = {
        name: vars(getattr(resolved.estimate, name))
        for name in ("fov_y_rad", "elevation_rad", "scene_scale")
    }
    told = {name: str(v) if isinstance(v, Path) else v for name, v in vars(settings).items()}
    size_px = resolved.preset.outputs.size_px if resolved.preset else resolved.pipe.image_size_px
    return {
        "program": f"zeronvs {__version__}",
        "torch": torch.__version__,
        "status": status,
        "settings": told | {"output_size_px": size_px},
        "resolved": [{"name": n, "value": v, "source": s} for n, v, s in resolved.rows],
        "estimates": estimates,
        "photo_fingerprint": digest_view(resolved.input_view),
    }


def _files(out: Path) -> list[Path]:
    """Return the files of a run folder that a person looks for."""
    names = (
        "orbit.mp4",
        "views.mp4",
        "sheet.png",
        "scene/scene.ply",
        "scene/mesh.glb",
        "cameras/transforms.json",
        "run.json",
    )
    return [out / name for name in names if (out / name).exists()]
