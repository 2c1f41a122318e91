"""Protocols that rooms above depend on instead of on each other: estimators and scenes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.scene_scale import viewer_scale


@dataclass(frozen=True, eq=False, kw_only=True)
class Geometry:
    """Depth of b images, and the lens that took them where the estimator predicts it."""

    depth_z: Float[Tensor, "b h w"]
    """Depth along the optical axis, > 0."""
    kind: Literal["relative", "metric"]
    """Relative: known up to a factor, chosen so that the 20 % quantile is 1. Metric: metres."""
    fov_y_rad: Float[Tensor, " b"] | None = None
    """Vertical field of view."""
    fov_spread_rad: Float[Tensor, " b"] | None = None
    """One standard deviation of `fov_y_rad`."""
    mask: Bool[Tensor, "b h w"] | None = None
    """Where the depth is valid; None: everywhere."""
    confidence: Float[Tensor, "b h w"] | None = None
    """In [0, 1]; None: unknown."""
    source: str = "depth model"
    """What predicted it, for display."""

    def scaled_depth(self, scene_scale: float | Float[Tensor, " b"]) -> Float[Tensor, "b h w"]:
        """Return depth in scene units: its 20 % quantile becomes the scene scale (paper, 3.3).

        Args:
            scene_scale: Scene units per model unit (the paper's q), > 0.

        Returns:
            Depth; 0 (unknown) outside the mask.
        """
        depth_z = self.depth_z
        if self.kind == "metric":
            depth_z = depth_z / viewer_scale(depth_z)[:, None, None]
        scale = scene_scale[:, None, None] if isinstance(scene_scale, Tensor) else scene_scale
        depth_z = depth_z * scale
        return depth_z if self.mask is None else depth_z * self.mask


@runtime_checkable
class GeometryEstimator(Protocol):
    """Predicts depth, and possibly the field of view, of single images."""

    def estimate(self, image: Float[Tensor, "b 3 h w"]) -> Geometry:
        """Return the geometry of images in [0, 1], in float32 on the device of the images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Field of view and gravity of one image."""

    fov_y_rad: float
    """Vertical field of view of the whole image."""
    fov_spread_rad: float
    """One standard deviation, here and below."""
    elevation_rad: float
    """By how much the camera looks down."""
    elevation_spread_rad: float
    roll_rad: float
    """By how much the world's up direction leans to the right in the image."""
    source: str
    """What predicted it, for display."""


@runtime_checkable
class CameraCalibrator(Protocol):
    """Predicts field of view and gravity of single images."""

    def calibrate(self, image: Float[Tensor, "3 h w"]) -> Calibration:
        """Return the calibration of an image in [0, 1]."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Rendering:
    """Images of a scene."""

    rgb: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1], over the background."""
    opacity: Float[Tensor, "b h w"]
    """In [0, 1]."""
    depth_z: Float[Tensor, "b h w"]
    """Depth along the optical axis, scene units."""


@runtime_checkable
class Scene(Protocol):
    """Anything that renders a camera: splats or a radiance field."""

    @property
    def device(self) -> torch.device:
        """Where it is rendered."""
        ...

    def render(
        self, camera: Camera, *, background: Float[Tensor, "*#b 3"] | None = None
    ) -> Rendering:
        """Render images, one for each camera of the batch.

        Args:
            camera: A batch of cameras (or one, which gives a batch of one).
            background: RGB behind the scene, one for all images or one each; None: black.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the scene to a safetensors file, whole or not at all."""
        ...
