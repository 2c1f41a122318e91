"""Deciding everything that was left open: preset, device, camera; nothing is written here.

An explicit setting wins over the preset, the preset over the model's own defaults; each decision is
kept as a row (name, value, source) for the person who runs it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.diffusion.conditioning_kind import ConditioningKind
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.config import DistillConfig
from zeronvs.distillation.losses import LossWeights
from zeronvs.photo.camera_estimate import CameraEstimate, estimate_camera
from zeronvs.photo.photo import Photo, load_photo, square_view
from zeronvs.protocols import GeometryEstimator
from zeronvs.recipes.presets import PRESETS, Preset, PresetName

Row = tuple[str, Any, str]
"""Name, value and source of a setting."""


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """What scenes and views have in common; None means: estimate it, or choose for me."""

    photo: Path
    out: Path
    model: str = "builtin"
    seed: int = 0
    device: str | None = None
    fov_y_rad: float | None = None
    """Vertical field of view of the photo's centre square."""
    elevation_rad: float | None = None
    scene_scale: float | None = None
    """Scene units per model unit (the paper's q)."""
    guidance_scale: float | None = None
    """None: the preset's or the model's own."""
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class SceneSettings(PhotoSettings):
    """What `zeronvs scene` is told."""

    preset: PresetName | None = None
    anchors: int | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class ViewsSettings(PhotoSettings):
    """What `zeronvs views` is told."""

    path: str = "orbit"
    frames: int = 24
    samples: int = 1
    steps: int | None = None
    """None, here and below: the model's own defaults."""
    eta: float | None = None
    batch_size: int = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolved:
    """Everything that was left open, decided."""

    rows: list[Row]
    photo: Photo
    estimate: CameraEstimate
    input_view: View
    """The photo's centre square at the canonical camera, with depth where the model has it."""
    pipe: ZeroNVSPipeline
    geometry_estimator: GeometryEstimator
    device: str
    preset: Preset | None
    """Of a scene; views need none."""


def resolve(settings: SceneSettings | ViewsSettings) -> Resolved:
    """Read the photo, load the model, estimate the camera; nothing is written.

    Raises:
        InputError: The photo, the model or a number cannot be used.
    """
    photo = load_photo(settings.photo)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe = ZeroNVSPipeline.from_pretrained(settings.model).to(device)
    geometry_estimator = load_builtin_depth(device=device)
    estimate = estimate_camera(
        photo.image,
        focal_px=photo.focal_px,
        focal_source=photo.focal_source,
        geometry_estimator=geometry_estimator,
        fov_y_rad=settings.fov_y_rad,
        elevation_rad=settings.elevation_rad,
        scene_scale=settings.scene_scale,
    )
    rows: list[Row] = [
        ("model", settings.model, "default" if settings.model == "builtin" else "given"),
        ("device", device, "given" if settings.device else "best available"),
        ("seed", settings.seed, "given" if settings.seed else "default"),
    ]
    for name in ("fov_y_rad", "elevation_rad", "scene_scale"):
        value = getattr(estimate, name)
        rows.append((name, value.value, value.source))
    preset = None
    if isinstance(settings, SceneSettings):
        preset, more = _choose_preset(settings, pipe, device)
        rows += more
    else:
        usual = pipe.conditioning.sampling_defaults
        told = {
            "steps": (settings.steps, usual.num_inference_steps),
            "eta": (settings.eta, usual.eta),
            "guidance_scale": (settings.guidance_scale, usual.guidance_scale),
        }
        rows += [(n, getattr(settings, n), "given") for n in ("path", "frames", "samples")]
        rows += [
            (name, default if value is None else value, "model" if value is None else "given")
            for name, (value, default) in told.items()
        ]
    return Resolved(
        rows=rows,
        photo=photo,
        estimate=estimate,
        input_view=_input_view(photo, estimate, pipe, geometry_estimator),
        pipe=pipe,
        geometry_estimator=geometry_estimator,
        device=device,
        preset=preset,
    )


def _choose_preset(
    settings: SceneSettings, pipe: ZeroNVSPipeline, device: str
) -> tuple[Preset, list[Row]]:
    """Return the preset with the explicit settings put in, and where each setting comes from."""
    name: PresetName = settings.preset or ("preview" if device == "cpu" else "fast")
    preset = PRESETS[name]
    config = _fitted_to_model(preset.distill, pipe.conditioning)
    rows: list[Row] = [("preset", name, "given" if settings.preset else f"for {device}")]
    if settings.steps is not None:
        config = config.with_steps(settings.steps)
    if settings.anchors is not None:
        config = replace(config, anchors=replace(config.anchors, count=settings.anchors))
    if settings.guidance_scale is not None:
        config = replace(config, guidance_scale=settings.guidance_scale)
    chosen = f"preset {name}"
    rows.append(("steps", config.steps, "given" if settings.steps else chosen))
    anchors = config.anchors.count
    rows.append(("anchors", anchors, chosen if settings.anchors is None else "given"))
    if config.uses_sds:
        of_kind = pipe.conditioning.sds_guidance_scale is not None
        fitted = "this kind of model" if of_kind else chosen
        told = settings.guidance_scale is not None
        rows.append(("guidance_scale", config.guidance_scale, "given" if told else fitted))
    if anchors and not config.uses_sds:
        # Anchors are conditions of score distillation; asking for them asks for it.
        sds = pipe.conditioning.sds_weight(LossWeights().sds)
        config = replace(config, weights=replace(config.weights, sds=sds))
    return replace(preset, distill=config), rows


def _fitted_to_model(config: DistillConfig, kind: ConditioningKind) -> DistillConfig:
    """Return the recipe with score distillation and anchor sampling as the kind of model needs."""
    weights = replace(config.weights, sds=kind.sds_weight(config.weights.sds))
    if kind.sds_guidance_scale is None:
        return replace(config, weights=weights)
    anchors = replace(config.anchors, **kind.sampling_defaults._asdict())
    return replace(config, weights=weights, anchors=anchors, guidance_scale=kind.sds_guidance_scale)


def _input_view(
    photo: Photo,
    estimate: CameraEstimate,
    pipe: ZeroNVSPipeline,
    geometry_estimator: GeometryEstimator,
) -> View:
    """Put the photo's centre square at the canonical camera: distance 1, looking at the origin."""
    elevation_rad = torch.tensor(estimate.elevation_rad.value)
    view = square_view(
        photo,
        fov_y_rad=estimate.fov_y_rad.value,
        size_px=pipe.image_size_px,
        camera_to_world=orbit_pose(torch.tensor(0.0), elevation_rad, torch.tensor(1.0)),
    )
    if not pipe.conditioning.needs_depth:
        return view
    geometry = geometry_estimator.estimate(view.image[None])
    return View(view.image, view.camera, geometry.scaled_depth(estimate.scene_scale.value)[0])
