"""Overlay of camera estimates: horizon and ground drawn into the photograph, beside its depth."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from zeronvs.cameras.camera import center_window
from zeronvs.cameras.view import resize_image

HORIZON_RGB = (1.0, 0.25, 0.1)
GROUND_RGB, GROUND_OPACITY = (1.0, 0.85, 0.2), 0.6
GROUND_COLUMNS, GROUND_ROWS = 6, 20
"""Squares of the ground along the lower border of the image, and from there into the distance."""
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
    """Return the centre square with horizon and ground, and next to it the depth if it is known.

    The grid lies on a level ground, which should fit floors and tables in the photograph; how high
    the camera stands above it is not known.

    Args:
        image: The photograph, sRGB in [0, 1].
        fov_y_rad: Vertical field of view of its centre square.
        elevation_rad: Downward tilt of the camera.
        relative_depth: Depth of the centre square in any unit.
        size_px: Side of each image.
    """
    square = image[:, *center_window(*image.shape[1:])]
    square = resize_image(square, (size_px, size_px)).clone()
    focal_px = 0.5 * size_px / math.tan(0.5 * fov_y_rad)
    _draw_ground(square, focal_px, elevation_rad)
    row = round(0.5 * size_px - focal_px * math.tan(elevation_rad))
    if 1 <= row < size_px - 1:
        square[:, row - 1 : row + 1] = torch.tensor(HORIZON_RGB)[:, None, None]
    if relative_depth is None:
        return square
    return torch.cat([square, depth_colours(relative_depth, size_px)], dim=2)


def _draw_ground(
    square: Float[Tensor, "3 size size"], focal_px: float, elevation_rad: float
) -> None:
    """Draw the grid of a level ground one unit below the camera, in place."""
    size_px = square.shape[-1]
    offset = (torch.arange(size_px) + 0.5 - 0.5 * size_px) / focal_px
    down, right = torch.meshgrid(offset, offset, indexing="ij")
    # Of the ray (right, -down, -1), along the world's down and forward.
    to_ground = down * math.cos(elevation_rad) + math.sin(elevation_rad)
    forward = math.cos(elevation_rad) - down * math.sin(elevation_rad)
    if float(to_ground[-1, 0]) <= 0:
        return
    distance = 1.0 / to_ground.clamp_min(1e-6)
    nearest = forward[-1, 0] * distance[-1, 0]
    cell = float(distance[-1, 0]) * size_px / focal_px / GROUND_COLUMNS
    lines = torch.zeros_like(square[0], dtype=torch.bool)
    for along in (right * distance / cell, (forward * distance - nearest) / cell):
        # A line passes between two pixels that lie in different squares.
        number = along.floor()
        lines[:, 1:] |= number[:, 1:] != number[:, :-1]
        lines[1:] |= number[1:] != number[:-1]
    lines &= (to_ground > 0) & (forward * distance < nearest + GROUND_ROWS * cell)
    ground = torch.tensor(GROUND_RGB)[:, None, None]
    square.copy_(torch.where(lines, torch.lerp(square, ground, GROUND_OPACITY), square))


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
