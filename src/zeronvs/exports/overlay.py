"""A picture of what was estimated: the horizon drawn into the photograph, the depth beside it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

HORIZON_RGB = (1.0, 0.25, 0.1)
_NEAR_TO_FAR = ((0.99, 0.91, 0.14), (0.13, 0.57, 0.55), (0.27, 0.0, 0.33))
"""Three colours of the viridis scale."""


def estimate_overlay(
    image: Float[Tensor, "3 h w"],
    *,
    fov_y_rad: float,
    elevation_rad: float,
    relative_depth: Float[Tensor, "depth_h depth_w"] | None = None,
    size_px: int = 384,
) -> Float[Tensor, "3 size width"]:
    """Return the centre square with its horizon, and beside it the depth where it is known.

    Args:
        image: The photograph, sRGB in [0, 1].
        fov_y_rad: Vertical field of view of its centre square.
        elevation_rad: Tilt of the camera downwards.
        relative_depth: Depth of the centre square in any unit.
        size_px: Side of each picture.
    """
    _, height_px, width_px = image.shape
    side_px = min(height_px, width_px)
    top_px, left_px = (height_px - side_px) // 2, (width_px - side_px) // 2
    square = image[None, :, top_px : top_px + side_px, left_px : left_px + side_px]
    square = interpolate(square, (size_px, size_px), mode="bilinear", antialias=True)[0]
    focal_px = 0.5 * size_px / math.tan(0.5 * fov_y_rad)
    row = round(0.5 * size_px - focal_px * math.tan(elevation_rad))
    if 1 <= row < size_px - 1:
        square[:, row - 1 : row + 1] = torch.tensor(HORIZON_RGB)[:, None, None]
    if relative_depth is None:
        return square
    return torch.cat([square, depth_colours(relative_depth, size_px)], dim=2)


def depth_colours(
    depth: Float[Tensor, "depth_h depth_w"], size_px: int
) -> Float[Tensor, "3 size_px size_px"]:
    """Return a depth map as colours, yellow near and violet far, by its order."""
    nearness = 1.0 / depth.float().clamp_min(1e-6)
    low, high = nearness.min(), nearness.max()
    nearness = (nearness - low) / (high - low).clamp_min(1e-9)
    nearness = interpolate(nearness[None, None], (size_px, size_px), mode="bilinear")[0, 0]
    near, middle, far = (torch.tensor(colour)[:, None, None] for colour in _NEAR_TO_FAR)
    first = torch.lerp(far, middle, (2 * nearness).clamp(0, 1))
    return torch.lerp(first, near, (2 * nearness - 1).clamp(0, 1))
