"""SDS anchoring: a few sampled views around the scene as additional conditions.

Score distillation is mode-seeking and yields monotonous backgrounds. Anchors are sampled once with
DDIM; views close to an anchor are conditioned on it instead of the photo, which makes backgrounds
more varied (paper section 3.4 and supplement B.1).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronvs._core.progress import Progress, silent
from zeronvs._core.random import sent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose, rotation_angle_rad
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline

GateDepth = Literal["accumulated", "surface"]


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """Settings of anchoring (paper section 3.4, B.1)."""

    count: int = 2
    """Number of anchors, at azimuths 360 (i + 1) / (count + 1) degrees; 0: SDS without anchors."""
    num_inference_steps: int = 500
    guidance_scale: float = 3.0
    eta: float = 1.0
    probability: float = 0.5
    """Probability that a view is conditioned on its nearest anchor rather than on the photo."""
    depth_threshold: float = 1.0
    """Views nearest to an anchor get gradients only where their depth exceeds this, scene units."""
    gate_depth: GateDepth = "accumulated"
    """Depth that is compared with the threshold. "accumulated": the sum of weight times distance
    along the ray (published code), so that transparent pixels stay shut. "surface": that of the
    rendering, the inverse mean disparity along the optical axis, so that they are open."""


def anchor_azimuths_rad(count: int) -> Float[Tensor, " {count}"]:
    """Return the azimuths that split the circle evenly with the photo at 0."""
    return 2 * math.pi * torch.arange(1, count + 1) / (count + 1)


def anchor_cameras(
    count: int,
    *,
    elevation_rad: float,
    distance: float,
    fov_y_rad: float,
    image_size_px: tuple[int, int],
) -> Camera:
    """Return the anchors' cameras: the photo's elevation, distance and field of view."""
    azimuth_rad = anchor_azimuths_rad(count)
    poses = orbit_pose(
        azimuth_rad,
        torch.full_like(azimuth_rad, elevation_rad),
        torch.full_like(azimuth_rad, distance),
    )
    return Camera.from_fov(poses, fov_y_rad, image_size_px)


def quantized(image: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Round to the 256 values of an 8-bit file, so that saving the image loses nothing."""
    return (image.clamp(0.0, 1.0) * 255.0).round() / 255.0


def sample_anchors(
    pipe: ZeroNVSPipeline,
    input_view: View,
    scene_scale: float,
    cameras: Camera,
    *,
    config: AnchorConfig,
    seeds: list[int],
    progress: Progress = silent,
) -> View:
    """Sample the anchors from the photo with DDIM; their pixels lie on the 8-bit grid.

    Args:
        scene_scale: Scene units per model unit.
    """
    image = pipe.sample(
        pipe.encode(input_view, scene_scale),
        cameras,
        seeds,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        eta=config.eta,
        callback=lambda event: progress(replace(event, stage="sample anchors")),
    )
    return View(quantized(image.float()), cameras.to(image.device))


def nearest_view(
    target_to_world: Float[Tensor, "n 4 4"], known_to_world: Float[Tensor, "m 4 4"]
) -> Int[Tensor, " n"]:
    """Return for each target the known view with the smallest angle of rotation to it.

    Only rotation counts, not position (published code, guidance/zero123_guidance.py).
    """
    n, m = target_to_world.shape[0], known_to_world.shape[0]
    angle_rad = rotation_angle_rad(
        target_to_world[:, None].expand(n, m, 4, 4), known_to_world[None].expand(n, m, 4, 4)
    )
    return angle_rad.argmin(dim=1)


def choose_conditions(
    nearest: Int[Tensor, " n"], probability: float, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Return the view that conditions each target: its nearest with p, else 0, the photo."""
    uses_nearest = torch.rand(len(nearest), generator=generator) < probability
    return torch.where(sent(uses_nearest, nearest.device), nearest, torch.zeros_like(nearest))


def draw_by_nearness(
    angle_rad: Float[Tensor, " m"], nearness_rad: float, count: int, generator: torch.Generator
) -> Int[Tensor, " {count}"]:
    """Draw known views with probabilities proportional to exp(-angle / nearness).

    Each step of a sample is conditioned on another of them (stochastic conditioning, 3DiM,
    arXiv:2210.04628, there with equal probabilities; weights by nearness: ViewFusion, arXiv
    2402.18842).

    Args:
        angle_rad: Angle between each known view and the target.
        nearness_rad: Angle in which the probability falls e-fold.
        count: Number of draws.
    """
    probability = torch.softmax(-angle_rad / nearness_rad, dim=0)
    return torch.multinomial(probability, count, replacement=True, generator=generator)


def anchor_gate(
    nearest: Int[Tensor, " n"], depth: Float[Tensor, "n h w"], depth_threshold: float
) -> Bool[Tensor, "n h w"]:
    """Return where the gradient passes: the nearest view is the photo, or the pixel is far.

    As in the published code, the gate depends on the *nearest* view, also where the draw chose the
    photo: near content is determined by the photo.
    """
    return (nearest == 0)[:, None, None] | (depth > depth_threshold)
