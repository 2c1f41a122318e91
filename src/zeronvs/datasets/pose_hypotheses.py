"""Tests of camera conventions against the images.

Corners of two frames are matched without their cameras. Each hypothesis about the poses is scored
by the share of matches whose rays meet in front of both cameras.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.rays import pixel_rays
from zeronvs.cameras.warp import project

MATCH_TOLERANCE_PX = 2.0
"""A match fits when its triangulated point projects to within this distance in both frames."""
MAX_CORNERS = 300
"""Maximum number of corners per frame."""
AS_GIVEN = "as given"


def _axes(x: float, y: float, z: float) -> Callable[[Tensor], Tensor]:
    return lambda pose: pose * torch.tensor([x, y, z, 1.0], dtype=pose.dtype)


def _transposed(pose: Tensor) -> Tensor:
    turned = pose.clone()
    turned[..., :3, :3] = pose[..., :3, :3].mT
    return turned


_TO_OPENGL = _axes(1.0, -1.0, -1.0)

HYPOTHESES: dict[str, Callable[[Tensor], Tensor]] = {
    AS_GIVEN: lambda pose: pose,
    "the y and z axes of the cameras are turned over (OpenCV against OpenGL)": _TO_OPENGL,
    "the poses are inverted (world-to-camera against camera-to-world)": torch.linalg.inv,
    "the poses are inverted, and their y and z axes turned over": lambda pose: _TO_OPENGL(
        torch.linalg.inv(pose)
    ),
    "the x and z axes of the cameras are turned over (PyTorch3D axes)": _axes(-1.0, 1.0, -1.0),
    "the images are upside down (turned by 180 degrees)": _axes(-1.0, -1.0, 1.0),
    "the rotations are transposed": _transposed,
}
"""Misreadings of the poses, and the function that undoes each.

A rotation of the whole world does not change the images, so no two hypotheses differ by one.
"""
FOCAL_FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Focal lengths that belong to another image size."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Corners that two frames share."""

    first: int
    second: int
    first_uv: Float[Tensor, "n 2"]
    second_uv: Float[Tensor, "n 2"]

    def __len__(self) -> int:
        return len(self.first_uv)


class Matcher:
    """Detects corners (ORB) and matches them; corners of a frame are detected once."""

    def __init__(self, images: list[ndarray]) -> None:
        self._images = images
        self._corners_of: dict[int, tuple[ndarray, ndarray]] = {}

    def match(self, first: int, second: int) -> Matches:
        """Return the matches of two frames."""
        (first_uv, first_descriptors), (second_uv, second_descriptors) = map(
            self._corners, (first, second)
        )
        pairs = np.zeros((0, 2), np.int64)
        if len(first_uv) > 8 and len(second_uv) > 8:
            from skimage.feature import match_descriptors  # slow to import

            pairs = match_descriptors(
                first_descriptors, second_descriptors, cross_check=True, max_ratio=0.8
            )
        return Matches(
            first,
            second,
            torch.from_numpy(first_uv[pairs[:, 0]]).float(),
            torch.from_numpy(second_uv[pairs[:, 1]]).float(),
        )

    def _corners(self, index: int) -> tuple[ndarray, ndarray]:
        """Return positions (u, v) and binary descriptors of the corners of a frame."""
        if index not in self._corners_of:
            grey = self._images[index].astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
            from skimage.feature import ORB  # slow to import

            finder = ORB(n_keypoints=MAX_CORNERS, fast_threshold=0.02)
            try:
                finder.detect_and_extract(grey)
            except (RuntimeError, IndexError, ValueError):  # an image without corners
                pass
            rows_columns, descriptors = finder.keypoints, finder.descriptors
            if rows_columns is None or descriptors is None:
                rows_columns, descriptors = np.zeros((0, 2)), np.zeros((0, 256), bool)
            self._corners_of[index] = rows_columns[:, ::-1] + 0.5, descriptors
        return self._corners_of[index]


def reprojection_errors(matches: Matches, first: Camera, second: Camera) -> Float[Tensor, " n"]:
    """Return the larger reprojection error of each triangulated match in its two frames, pixels.

    Infinite where the point lies behind a camera.
    """
    point, ahead = triangulate_matches(matches, first, second)
    error = torch.zeros(len(matches), dtype=torch.float64)
    for uv, camera in ((matches.first_uv, first), (matches.second_uv, second)):
        uv_px, depth_z = project(point, camera.to(dtype=torch.float64))
        error = torch.maximum(error, (uv_px - uv).norm(dim=-1))
        ahead = ahead & (depth_z > 0)
    return torch.where(ahead, error, torch.inf)


def triangulate_matches(
    matches: Matches, first: Camera, second: Camera
) -> tuple[
    Float[Tensor, "n 3"],  # the world point closest to both rays
    Tensor,  # whether it lies ahead on both
]:
    """Triangulate matches; nearly parallel rays meet far away.

    The closest points of the rays o + s d and o' + t d' solve the normal equations, with b = o' - o
    and c = d . d':  s = (d . b - c d' . b) / (1 - c^2),  t = (c d . b - d' . b) / (1 - c^2).
    """
    one = _directions(matches.first_uv, first)
    other = _directions(matches.second_uv, second)
    between = (second.position - first.position).double()
    dot = (one * other).sum(-1)
    along_one, along_other = one @ between, other @ between
    apart = (1 - dot * dot).clamp_min(1e-9)
    s = (along_one - dot * along_other) / apart
    t = (dot * along_one - along_other) / apart
    # Without parallax noise decides on which side the rays meet: there, far away is right.
    sideways = apart.sqrt() < 2e-3
    far = 1e4 * between.norm().clamp_min(1e-6)
    s, t = torch.where(sideways, far, s), torch.where(sideways, far, t)
    point_one = first.position.double() + s[:, None] * one
    point_other = second.position.double() + t[:, None] * other
    return 0.5 * (point_one + point_other), (s > 0) & (t > 0)


def score_hypotheses(matches: list[Matches], cameras: list[Camera]) -> dict[str, float]:
    """Return the share of matches that fit, by hypothesis; empty without matches."""
    if sum(len(pair) for pair in matches) == 0:
        return {}
    scores = {}
    for name, undo in HYPOTHESES.items():
        tried = [_posed(camera, undo) for camera in cameras]
        scores[name] = _share(matches, tried)
    for factor in FOCAL_FACTORS:
        tried = [_refocused(camera, factor) for camera in cameras]
        scores[f"the focal length is off by a factor of {1 / factor:g}"] = _share(matches, tried)
    return scores


def depth_ratios(
    matches: Matches, first: Camera, second: Camera, depth_z: Float[ndarray, "h w"]
) -> Float[ndarray, "n 2"]:
    """Return (given depth, depth where the rays meet) of matches with both, at the first frame."""
    good = reprojection_errors(matches, first, second) < MATCH_TOLERANCE_PX
    point, _ = triangulate_matches(matches, first, second)
    _, met = project(point, first.to(dtype=torch.float64))
    _, met_other = project(point, second.to(dtype=torch.float64))
    parallax = (second.position - first.position).norm() / torch.minimum(met, met_other)
    good = good & (parallax > 0.03)
    given = _near(depth_z, matches.first_uv.long())
    chosen = good & (given > 0) & (met > 0)
    return torch.stack([given.double(), met], dim=-1)[chosen].numpy()


def _near(depth_z: Float[ndarray, "h w"], uv: Int[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Return the known depth at pixels, or the nearest within two pixels."""
    height, width = depth_z.shape
    nearest = torch.zeros(len(uv))
    shifts = sorted(
        ((x, y) for x in range(-2, 3) for y in range(-2, 3)), key=lambda s: s[0] ** 2 + s[1] ** 2
    )
    map_z = torch.from_numpy(np.ascontiguousarray(depth_z, dtype=np.float32))
    for x, y in shifts:
        value = map_z[(uv[:, 1] + y).clamp(0, height - 1), (uv[:, 0] + x).clamp(0, width - 1)]
        nearest = torch.where(nearest > 0, nearest, value)
    return nearest


def _share(matches: list[Matches], cameras: list[Camera]) -> float:
    fits = [
        reprojection_errors(pair, cameras[pair.first], cameras[pair.second]) for pair in matches
    ]
    return float((torch.cat(fits) < MATCH_TOLERANCE_PX).double().mean())


def _posed(camera: Camera, undo: Callable[[Tensor], Tensor]) -> Camera:
    camera = camera.to(dtype=torch.float64)
    return camera.with_poses(undo(camera.camera_to_world))


def _refocused(camera: Camera, factor: float) -> Camera:
    intrinsics_px = camera.intrinsics_px.clone()
    intrinsics_px[..., 0, 0] *= factor
    intrinsics_px[..., 1, 1] *= factor
    return camera.with_intrinsics(intrinsics_px)


def _directions(uv: Float[Tensor, "n 2"], camera: Camera) -> Float[Tensor, "n 3"]:
    return pixel_rays(camera.to(dtype=torch.float64), uv.double()).directions
