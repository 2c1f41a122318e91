"""Random cameras around the scene; their range grows from the photo's viewpoint during a run.

Growing the ranges of azimuth and elevation slowly is "very important for stability" (paper,
supplement B.2). All cameras are upright, point at the origin and have the photo's field of view.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose

_DEGREE = math.pi / 180.0

SphereSampling = Literal["published", "uniform"]


@dataclass(frozen=True, kw_only=True)
class ViewpointConfig:
    """Distribution of random cameras (published code, data/image.py and data/uncond.py)."""

    azimuth_range_rad: tuple[float, float] = (-math.pi, math.pi)
    """Relative to the photo, whose azimuth is 0."""
    elevation_range_rad: tuple[float, float] | None = (5.0 * _DEGREE, 80.0 * _DEGREE)
    """Published for one's own photo and DTU: 5 to 80 degrees, whatever the photo's. None: around
    the photo's, as published for Mip-NeRF 360 (`elevation_range_around`)."""
    distance_range: tuple[float, float] = (0.8, 1.8)
    """Distances in units of the photo's distance from the origin."""
    progressive_until_step: int = 1000
    """Step at which the ranges are at their widest; 0 = from the start."""
    sphere_probability: float = 0.5
    """Probability of cameras on the sphere rather than uniform in elevation."""
    sphere_sampling: SphereSampling = "published"
    """How elevations on the sphere are drawn. "uniform": the sine is uniform between those of the
    bounds, and each camera decides for itself which kind it is. "published": the sine is uniform
    between bound / 90 degrees, so that 5 to 80 degrees become 3.2 to 62.7 and a range of one
    elevation becomes another, and one draw decides for all cameras of a step (data/uncond.py)."""

    def compressed(self, factor: float) -> "ViewpointConfig":
        """Return the same ranges with every step number multiplied by `factor`."""
        return replace(self, progressive_until_step=round(self.progressive_until_step * factor))


@dataclass(frozen=True, eq=False)
class Viewpoints:
    """Cameras on spheres around the origin, pointing at it, in spherical coordinates."""

    azimuth_rad: Float[Tensor, " n"]
    """Counter-clockwise seen from above; the photo's is 0; in [-pi, pi]."""
    elevation_rad: Float[Tensor, " n"]
    distance: Float[Tensor, " n"]

    @property
    def azimuth_distance_rad(self) -> Float[Tensor, " n"]:
        """Angle in azimuth to the photo, in [0, pi]."""
        wrapped = torch.remainder(self.azimuth_rad + math.pi, 2 * math.pi) - math.pi
        return wrapped.abs()

    def cameras(self, fov_y_rad: float, image_size_px: tuple[int, int]) -> Camera:
        """Return the cameras at these positions, pointing at the origin."""
        poses = orbit_pose(self.azimuth_rad, self.elevation_rad, self.distance)
        return Camera.from_fov(poses, fov_y_rad, image_size_px)


def elevation_range_around(input_elevation_rad: float) -> tuple[float, float]:
    """Return the range of elevations around that of the photo, as published for Mip-NeRF 360.

    [clip(e - 30, min(5, e), 80), clip(e + 50, 5, 80)] in degrees (published code, data/image.py).
    """
    elevation_deg = input_elevation_rad / _DEGREE
    low_deg = min(max(elevation_deg - 30.0, min(5.0, elevation_deg)), 80.0)
    high_deg = min(max(elevation_deg + 50.0, 5.0), 80.0)
    return low_deg * _DEGREE, high_deg * _DEGREE


def reached_range(
    full_range: tuple[float, float], start: float, step: int, until_step: int
) -> tuple[float, float]:
    """Return the part of `full_range` reached at `step`, growing linearly from `start`."""
    grown = 1.0 if until_step <= 0 else min(1.0, step / until_step)
    low, high = full_range
    return start + grown * (low - start), start + grown * (high - start)


def random_viewpoints(
    config: ViewpointConfig,
    count: int,
    step: int,
    *,
    input_elevation_rad: float,
    input_distance: float = 1.0,
    generator: torch.Generator,
) -> Viewpoints:
    """Draw viewpoints from the ranges reached at `step`.

    A share of them is on the sphere (`sphere_sampling`), the others are uniform in elevation.

    Args:
        step: Step of the run, from 0.
        input_elevation_rad: Elevation of the photo's camera; the ranges grow from there.
        input_distance: The photo's distance from the origin, scene units.
    """
    until_step = config.progressive_until_step
    azimuth_low, azimuth_high = reached_range(config.azimuth_range_rad, 0.0, step, until_step)
    full_elevation = config.elevation_range_rad or elevation_range_around(input_elevation_rad)
    elevation_low, elevation_high = reached_range(
        full_elevation, input_elevation_rad, step, until_step
    )
    distance_low, distance_high = (input_distance * bound for bound in config.distance_range)

    azimuth, height, distance, kind = torch.rand((4, count), generator=generator)
    in_degrees = elevation_low + (elevation_high - elevation_low) * height
    sine_low, sine_high = math.sin(elevation_low), math.sin(elevation_high)
    if config.sphere_sampling == "published":
        sine_low, sine_high = elevation_low / (0.5 * math.pi), elevation_high / (0.5 * math.pi)
        kind = kind[:1].expand(count)
    on_sphere = torch.asin((sine_low + (sine_high - sine_low) * height).clamp(-1.0, 1.0))
    return Viewpoints(
        azimuth_rad=azimuth_low + (azimuth_high - azimuth_low) * azimuth,
        elevation_rad=torch.where(kind < config.sphere_probability, on_sphere, in_degrees),
        distance=distance_low + (distance_high - distance_low) * distance,
    )
