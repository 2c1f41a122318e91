"""Views around the scene, sampled outwards from the photo, each given what the others showed.

The surfaces known so far are warped into the next view on either side (the nearest in front). A
model that warps its input inpaints the rest; any other model starts from the warped surfaces and is
conditioned on the known views nearby. New content gets a depth that continues the known depth, and
the view joins the known ones. The two sides meet behind the scene. Views are consistent with each
other, whereas independent samples are not.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.precision import scene_precision
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.random import seeded_generator, sent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose, rotation_angle_rad
from zeronvs.cameras.scene_scale import fit_disparity
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import (
    SurfacePoints,
    continue_image,
    fill_holes,
    join_points,
    project,
    read_back,
    splat_points,
    surface_points,
)
from zeronvs.diffusion.condition import Condition, join_conditions
from zeronvs.diffusion.conditioning_kind import Warped
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.sampling import Start
from zeronvs.distillation.anchors import draw_by_nearness
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.distillation.view_files import load_image, save_image
from zeronvs.protocols import GeometryEstimator

LEAST_KNOWN = 0.02
"""Share of the pixels from which a relative depth is aligned to known depth."""


@dataclass(frozen=True, kw_only=True)
class SurroundConfig:
    """Settings of sampling around the scene."""

    count: int = 15
    """Number of views on the circle, in addition to the photo."""
    num_inference_steps: int | None = None
    """None, here and below: the model's own defaults."""
    guidance_scale: float | None = None
    eta: float | None = None
    clearance: float = 0.85
    """Maximum depth of a camera, relative to the surface that the photo shows in its direction."""
    min_distance: float = 0.55
    """Minimum distance of a camera from the origin, scene units; overrides the clearance."""
    max_depth: float = 6.0
    """Upper bound of the depth of sampled views, scene units."""
    new_trust: float = 0.5
    """Weight of invented pixels in the fit; pixels that repeat known surfaces weigh 1."""
    least_trust: float = 1.0
    """A view's weight in the fit falls with its angle to the photo as cos^2 of half the angle (the
    square of the cosine itself would trust what is behind again), to no less than this."""
    shared_noise: bool = False
    """Whether all views have the noise of the first one."""
    nearness_rad: float | None = None
    """Stochastic conditioning of models that do not warp their input: each step is conditioned on a
    known view, drawn with a probability that falls e-fold in this angle. None: on the photo."""
    start_level: float | None = None
    """Noise level, as a fraction of the training timesteps, at which models that do not warp their
    input start from the warped surfaces. None: pure noise."""
    known_share: float = 0.6
    """Share of their steps after which known latents are put back."""


def surround_azimuths_rad(count: int) -> list[float]:
    """Return the azimuths of `count` views, evenly around, nearest to the photo (0) first."""
    step = 2 * math.pi / (count + 1)
    offsets = [((k + 1) // 2) * (1 if k % 2 else -1) for k in range(1, count + 1)]
    return [offset * step for offset in offsets]


@torch.no_grad()
@scene_precision()
def sample_surround(
    pipe: ZeroNVSPipeline,
    input_view: View,
    scene_scale: float,
    config: SurroundConfig,
    *,
    geometry_estimator: GeometryEstimator | None = None,
    seed: int,
    folder: Path,
    resume: bool = False,
    progress: Progress = silent,
) -> SupervisedViews:
    """Sample views around the scene.

    Args:
        pipe: The model.
        input_view: The photo (one view) at the canonical camera. Without depth, which some models
            need, no surfaces are warped, and the views have no depth.
        scene_scale: Scene units per model unit.
        config: Settings.
        geometry_estimator: Predicts the depth of the sampled views; None: as without depth.
        seed: View k is sampled with seed 1000 * seed + k.
        folder: Each image is written here as soon as it is sampled.
        resume: Whether images in the folder are read instead of sampled.
        progress: Called after every view.
    """
    size = (pipe.image_size_px, pipe.image_size_px)
    azimuth_rad = torch.tensor(surround_azimuths_rad(config.count))
    cameras = free_orbit(input_view, azimuth_rad, config).resized(*size).to(pipe.device)
    known = [pipe.encode(input_view.batched(), scene_scale)]
    has_depth = known[0].view.depth_z is not None and geometry_estimator is not None
    clouds = [surface_points(known[0].view)] if has_depth else []
    trusts = []
    for index in range(config.count):
        camera, path = cameras[[index]], folder / f"{index:03d}.png"
        warped, depth_z, validity = None, None, torch.zeros((1, 1, *size), device=pipe.device)
        if clouds:
            image, depth_z, validity = _warp_known([k.view for k in known], clouds, camera)
            warped = (image, validity)
        if not (resume and path.is_file()):
            sample_seed = seed * 1000 + (0 if config.shared_noise else index)
            save_image(path, _sample_next(pipe, known, camera, warped, config, sample_seed)[0])
        view = View(load_image(path)[None].to(pipe.device), camera)
        if depth_z is not None and geometry_estimator is not None:
            relative = geometry_estimator.estimate(view.image).scaled_depth(1.0)
            depth_z = _continued_depth(depth_z, validity[:, 0] > 0, relative, config.max_depth)
            view = view.with_depth(depth_z)
            # Only new content joins the known surfaces: old ones keep their first, sharpest colours
            clouds.append(surface_points(view.with_depth(depth_z * (1 - validity[:, 0]))))
        known.append(pipe.encode(view, scene_scale))
        trusts.append(torch.where(validity[:, 0] > 0, 1.0, config.new_trust))
        progress(ProgressEvent("sample views around", index + 1, config.count))
    weight = (0.5 * azimuth_rad).cos().square().clamp_min(config.least_trust).to(pipe.device)
    views = View.cat([condition.view for condition in known[1:]])
    return SupervisedViews(views, weight, torch.cat(trusts))


def _sample_next(
    pipe: ZeroNVSPipeline,
    known: list[Condition],
    camera: Camera,
    warped: Warped | None,
    config: SurroundConfig,
    seed: int,
) -> Float[Tensor, "1 3 h w"]:
    """Sample the view of one camera, given the known views and their surfaces warped into it."""
    sampler = {
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "eta": config.eta,
    }
    poses = torch.cat([k.view.camera.camera_to_world for k in known])
    angle_rad = rotation_angle_rad(poses, camera.camera_to_world.expand_as(poses))
    if pipe.conditioning.needs_depth:
        nearest = known[int(angle_rad.argmin())]
        return pipe.sample(nearest, camera, [seed], warped=warped, **sampler)
    start = None
    if warped is not None and config.start_level is not None:
        image, validity = warped
        cell_px = pipe.conditioning.latent.pixels_per_cell
        start = Start(
            latent=pipe.to_latent(image),
            noise_level=config.start_level,
            # A latent is known where all of its pixels are.
            known=-F.max_pool2d(-validity, cell_px),
            known_share=config.known_share,
        )
    chosen = None
    if config.nearness_rad is not None:
        defaults = pipe.conditioning.sampling_defaults
        steps = config.num_inference_steps or defaults.num_inference_steps
        generator = seeded_generator(seed)
        chosen = draw_by_nearness(angle_rad.cpu(), config.nearness_rad, steps, generator)
        chosen = sent(chosen[:, None], pipe.device)
    condition = known[0] if chosen is None else join_conditions(known)
    return pipe.sample(condition, camera, [seed], chosen=chosen, start=start, **sampler)


def free_orbit(
    input_view: View,
    azimuth_rad: Float[Tensor, " n"],
    config: SurroundConfig | None = None,
) -> Camera:
    """Return cameras on an orbit around the origin that stays in front of the photo's surfaces.

    Where the orbit would pass behind a surface, its radius is reduced to the clearance, but not
    below the minimum distance; the radius changes smoothly with the azimuth.

    Args:
        input_view: The photo (one view) at the canonical camera; without depth, the orbit is a
            circle.
        azimuth_rad: Azimuths of the cameras on the orbit.
        config: Clearance and minimum distance.
    """
    config = config or SurroundConfig()
    elevation_rad = float(input_view.camera.elevation_rad)
    full = float(input_view.camera.position.norm())
    distance = torch.full_like(azimuth_rad, full)
    if input_view.depth_z is not None:
        ring_rad = torch.arange(72) * (2 * math.pi / 72)
        ring = _free_distances(input_view, elevation_rad, ring_rad, full, config)
        # A running minimum over 9 samples, then a running mean over 11: smooth, and practically
        # never beyond the free distance. They consume 4 + 5 samples at each end, so the ring
        # is continued by 9.
        padded = torch.cat([ring[-9:], ring, ring[:9]])[None, None]
        least = -F.max_pool1d(-padded, 9, stride=1)
        smooth = F.avg_pool1d(least, 11, stride=1)[0, 0]
        # The nearest of the 72 samples of the ring for each azimuth.
        distance = smooth[(azimuth_rad / (2 * math.pi / 72)).round().long() % 72]
    poses = orbit_pose(azimuth_rad, torch.full_like(azimuth_rad, elevation_rad), distance)
    return input_view.camera.to("cpu").with_poses(poses)


def _free_distances(
    input_view: View,
    elevation_rad: float,
    azimuth_rad: Float[Tensor, " n"],
    full: float,
    config: SurroundConfig,
) -> Float[Tensor, " n"]:
    """Return the largest distance from the origin at each azimuth that the photo leaves free."""
    assert input_view.depth_z is not None
    depth_z, camera = input_view.depth_z.cpu(), input_view.camera.to("cpu")
    height_px, width_px = camera.image_size_px
    candidates = torch.linspace(full, min(config.min_distance, full), 24)
    free = torch.full_like(azimuth_rad, float(candidates[-1]))
    # From near to far, so that the largest free distance is kept.
    for distance in candidates.flip(0):
        poses = orbit_pose(
            azimuth_rad,
            torch.full_like(azimuth_rad, elevation_rad),
            distance.expand_as(azimuth_rad),
        )
        uv_px, z = project(poses[:, :3, 3], camera)
        column, row = uv_px.floor().long().unbind(-1)
        in_image = (z > 0) & (column >= 0) & (column < width_px) & (row >= 0) & (row < height_px)
        wall = depth_z[row.clamp(0, height_px - 1), column.clamp(0, width_px - 1)]
        blocked = in_image & (wall > 0) & (z > config.clearance * wall)
        free = torch.where(blocked, free, distance)
    return free


def _warp_known(
    views: list[View], clouds: list[SurfacePoints], camera: Camera
) -> tuple[
    Float[Tensor, "1 3 h w"],  # known surfaces as the camera sees them, holes filled smoothly
    Float[Tensor, "1 h w"],  # their depth, holes filled smoothly
    Float[Tensor, "1 1 h w"],  # 1 where something known is seen
]:
    """Warp the known surfaces into a camera; those of cloud k were observed by view k."""
    cloud = join_points(clouds)
    uv_px, depth_z = project(cloud.position, camera)
    counts = torch.tensor([c.position.shape[1] for c in clouds], device=depth_z.device)
    # Splat depth together with a one-hot code of the view that observed the point.
    source = torch.arange(len(clouds), device=depth_z.device).repeat_interleave(counts)
    observed_by = F.one_hot(source, len(clouds)).to(depth_z.dtype)[None]
    values = torch.cat([depth_z[..., None], observed_by], dim=-1)
    moved, validity = splat_points(
        uv_px, depth_z, values, cloud.faces(camera), camera.image_size_px
    )
    # Colours are read from the view that contributes most to a pixel, which keeps them sharp.
    best = moved[:, 1:].argmax(dim=1, keepdim=True)
    image = torch.zeros_like(moved[:, :1]).expand(-1, 3, -1, -1)
    for index, view in enumerate(views):
        image = torch.where(best == index, read_back(view, camera, moved[:, 0]), image)
    continued = continue_image(image * validity, validity, moved[:, 0])
    return continued, moved[:, 0], validity


def _continued_depth(
    known_z: Float[Tensor, "1 h w"],
    known: Bool[Tensor, "1 h w"],
    relative: Float[Tensor, "1 h w"],
    max_depth: float,
) -> Float[Tensor, "1 h w"]:
    """Keep known depth; elsewhere take the estimate, aligned to it and continuous at the border."""
    if known.float().mean() < LEAST_KNOWN:
        return relative.clamp(0.2, max_depth)
    fitted = aligned_disparity(relative, known_z, known)
    error = (1.0 / known_z.clamp_min(1e-3) - fitted)[:, None]
    error = fill_holes(error, known[:, None].to(error.dtype))[:, 0]
    depth_z = 1.0 / (fitted + error).clamp(1.0 / max_depth, 5.0)
    return torch.where(known, known_z, depth_z)


def aligned_disparity(
    relative: Float[Tensor, "1 h w"],
    known_z: Float[Tensor, "1 h w"],
    known: Bool[Tensor, "1 h w"],
) -> Float[Tensor, "1 h w"]:
    """Return the inverse of a relative depth, scaled and shifted to that of known pixels."""
    disparity = 1.0 / relative
    scale, shift = fit_disparity(disparity[known], 1.0 / known_z[known].clamp_min(1e-3))
    return scale * disparity + shift
