"""Gaussian splats drawn on a CPU by compiled loops: the fast twin of `rasterizer`, no gradients.

numba compiles the loops at their first call (a few seconds, kept on disk for the next process).
The arithmetic is that of `rasterizer`: EWA projection with a low-pass, alpha cut at 1/255
and 0.99, front to back. What makes it fast: a splat is evaluated inside its own box only, not over
whole tiles, and a tile ends when all of its pixels are opaque.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

LARGEST_ALPHA = 0.99
SMALLEST_ALPHA = 1.0 / 255.0
# In single precision: a literal would make the loops compute in double.
_OPAQUE, _HALF = np.float32(1e-4), np.float32(0.5)
_LARGEST, _SMALLEST = np.float32(LARGEST_ALPHA), np.float32(SMALLEST_ALPHA)
_TILE_PX = 16

Floats = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function at its first call, without checks that were wrapped around it."""
    compiled: Any = njit(parallel=True, cache=True, fastmath=True)(inspect.unwrap(function))
    return compiled


def draw(
    means: Floats,
    scales: Floats,
    rotations: Floats,
    opacities: Floats,
    colors: Floats,
    camera_to_world: Floats,
    intrinsics_px: Floats,
    image_size_px: tuple[int, int],
    near: float,
    low_pass_px2: float,
) -> Floats:
    """Draw one image: premultiplied RGB, depth times opacity, and opacity, as "h w 5".

    Args:
        means, scales, rotations, opacities, colors: As in `GaussianSplats`, contiguous float32.
        camera_to_world: "4 4", OpenGL axes.
        intrinsics_px: "3 3".
        image_size_px: (height, width).
        near: Splats nearer to the image plane than this are not drawn, scene units.
        low_pass_px2: Added to the variances on the image plane, pixels squared.
    """
    projected, boxes = _project(
        means,
        scales,
        rotations,
        opacities,
        camera_to_world,
        intrinsics_px,
        image_size_px[0],
        image_size_px[1],
        near,
        np.float32(low_pass_px2),
    )
    seen = np.nonzero(boxes[:, 1] > boxes[:, 0])[0]
    order = seen[np.argsort(projected[seen, 5], kind="stable")]
    return _composite(order, projected, boxes, colors, image_size_px[0], image_size_px[1])


@compiled
def _project(
    means: Floats,
    scales: Floats,
    rotations: Floats,
    opacities: Floats,
    camera_to_world: Floats,
    intrinsics_px: Floats,
    height_px: int,
    width_px: int,
    near: float,
    low_pass_px2: np.float32,
) -> tuple[Floats, NDArray[np.int32]]:
    """Project splats: (u, v, conic uu, uv, vv, depth_z, opacity), and their boxes.

    A box holds the first and one past the last column, then the same for rows; it is empty where
    the splat cannot be seen.
    """
    count = means.shape[0]
    projected = np.empty((count, 7), np.float32)
    boxes = np.zeros((count, 4), np.int32)
    focal_u, focal_v = intrinsics_px[0, 0], intrinsics_px[1, 1]
    centre_u, centre_v = intrinsics_px[0, 2], intrinsics_px[1, 2]
    limit_u, limit_v = 0.65 * width_px / focal_u, 0.65 * height_px / focal_v
    for k in prange(count):
        dx = means[k, 0] - camera_to_world[0, 3]
        dy = means[k, 1] - camera_to_world[1, 3]
        dz = means[k, 2] - camera_to_world[2, 3]
        # Camera axes are the columns of the rotation; z looks backwards.
        x = dx * camera_to_world[0, 0] + dy * camera_to_world[1, 0] + dz * camera_to_world[2, 0]
        y = dx * camera_to_world[0, 1] + dy * camera_to_world[1, 1] + dz * camera_to_world[2, 1]
        z = -(dx * camera_to_world[0, 2] + dy * camera_to_world[1, 2] + dz * camera_to_world[2, 2])
        if z <= near or opacities[k] <= SMALLEST_ALPHA:
            continue
        u = focal_u * x / z + centre_u
        v = -focal_v * y / z + centre_v
        slope_u = min(max(x / z, -limit_u), limit_u)
        slope_v = min(max(-y / z, -limit_v), limit_v)
        qw, qx, qy, qz = rotations[k, 0], rotations[k, 1], rotations[k, 2], rotations[k, 3]
        norm = 1.0 / math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        qw, qx, qy, qz = qw * norm, qx * norm, qy * norm, qz * norm
        var_u = var_v = low_pass_px2
        cov_uv = np.float32(0.0)
        for axis in range(3):
            # Column `axis` of the splat's rotation, in world axes, times its scale.
            if axis == 0:
                wx = 1 - 2 * (qy * qy + qz * qz)
                wy = 2 * (qx * qy + qw * qz)
                wz = 2 * (qx * qz - qw * qy)
            elif axis == 1:
                wx = 2 * (qx * qy - qw * qz)
                wy = 1 - 2 * (qx * qx + qz * qz)
                wz = 2 * (qy * qz + qw * qx)
            else:
                wx = 2 * (qx * qz + qw * qy)
                wy = 2 * (qy * qz - qw * qx)
                wz = 1 - 2 * (qx * qx + qy * qy)
            cx = (
                wx * camera_to_world[0, 0] + wy * camera_to_world[1, 0] + wz * camera_to_world[2, 0]
            )
            cy = (
                wx * camera_to_world[0, 1] + wy * camera_to_world[1, 1] + wz * camera_to_world[2, 1]
            )
            cz = (
                wx * camera_to_world[0, 2] + wy * camera_to_world[1, 2] + wz * camera_to_world[2, 2]
            )
            # The projection's Jacobian (rows u and v) times the axis: its image is one axis of the
            # 2D Gaussian, and the covariance the sum of their outer products.
            along_u = focal_u / z * (cx + slope_u * cz) * scales[k, axis]
            along_v = focal_v / z * (-cy + slope_v * cz) * scales[k, axis]
            var_u += along_u * along_u
            var_v += along_v * along_v
            cov_uv += along_u * along_v
        determinant = max(var_u * var_v - cov_uv * cov_uv, 1e-12)
        reach = 2.0 * math.log(opacities[k] / SMALLEST_ALPHA)
        half_u, half_v = math.sqrt(reach * var_u), math.sqrt(reach * var_v)
        # Pixel centres lie at half integers: column c is inside where |c + 0.5 - u| <= half_u.
        boxes[k, 0] = max(0, math.ceil(max(u - half_u - 0.5, -1.0)))
        boxes[k, 1] = min(width_px, math.floor(min(u + half_u - 0.5, width_px + 1.0)) + 1)
        boxes[k, 2] = max(0, math.ceil(max(v - half_v - 0.5, -1.0)))
        boxes[k, 3] = min(height_px, math.floor(min(v + half_v - 0.5, height_px + 1.0)) + 1)
        if boxes[k, 3] <= boxes[k, 2]:
            boxes[k, 1] = boxes[k, 0]
        projected[k, 0], projected[k, 1] = u, v
        projected[k, 2] = var_v / determinant
        projected[k, 3] = -cov_uv / determinant
        projected[k, 4] = var_u / determinant
        projected[k, 5], projected[k, 6] = z, opacities[k]
    return projected, boxes


@compiled
def _composite(
    order: NDArray[np.int64],
    projected: Floats,
    boxes: NDArray[np.int32],
    colors: Floats,
    height_px: int,
    width_px: int,
) -> Floats:
    """Composite the splats that `order` lists, nearest first; returns "h w 5"."""
    tiles_down = (height_px + _TILE_PX - 1) // _TILE_PX
    tiles_across = (width_px + _TILE_PX - 1) // _TILE_PX
    # Lists of splats, tile after tile; within a tile they stay nearest first. First their lengths,
    # then their starts, then the entries.
    first = np.zeros(tiles_down * tiles_across + 1, np.int64)
    for k in order:
        for row in range(boxes[k, 2] // _TILE_PX, (boxes[k, 3] - 1) // _TILE_PX + 1):
            for column in range(boxes[k, 0] // _TILE_PX, (boxes[k, 1] - 1) // _TILE_PX + 1):
                first[row * tiles_across + column + 1] += 1
    first = np.cumsum(first)
    free = first[:-1].copy()
    hits = np.empty(first[-1], np.int32)
    for k in order:
        for row in range(boxes[k, 2] // _TILE_PX, (boxes[k, 3] - 1) // _TILE_PX + 1):
            for column in range(boxes[k, 0] // _TILE_PX, (boxes[k, 1] - 1) // _TILE_PX + 1):
                tile = row * tiles_across + column
                hits[free[tile]] = k
                free[tile] += 1
    image = np.empty((height_px, width_px, 5), np.float32)
    for tile in prange(tiles_down * tiles_across):
        top, left = tile // tiles_across * _TILE_PX, tile % tiles_across * _TILE_PX
        bottom, right = min(top + _TILE_PX, height_px), min(left + _TILE_PX, width_px)
        clear = np.ones((_TILE_PX, _TILE_PX), np.float32)
        drawn = np.zeros((_TILE_PX, _TILE_PX, 5), np.float32)
        still_open = (bottom - top) * (right - left)
        for hit in range(first[tile], first[tile + 1]):
            k = hits[hit]
            u, v, depth, opacity = (
                projected[k, 0],
                projected[k, 1],
                projected[k, 5],
                projected[k, 6],
            )
            uu, uv, vv = projected[k, 2], projected[k, 3], projected[k, 4]
            red, green, blue = colors[k, 0], colors[k, 1], colors[k, 2]
            # Twice the exponent at which alpha is cut; how alpha's ratio changes along a row.
            reach = np.float32(2) * math.log(opacity / _SMALLEST)
            bend = math.exp(-uu)
            for row in range(max(top, boxes[k, 2]), min(bottom, boxes[k, 3])):
                dv = np.float32(row) + _HALF - v
                cross = uv * dv
                # Columns where uu du^2 + 2 uv du dv + vv dv^2 <= reach.
                root = cross * cross - uu * (vv * dv * dv - reach)
                if root <= 0:
                    continue
                middle, half = u - cross / uu - _HALF, math.sqrt(root) / uu
                start = max(left, boxes[k, 0], math.ceil(middle - half))
                stop = min(right, boxes[k, 1], math.floor(middle + half) + 1)
                du = np.float32(start) + _HALF - u
                # A Gaussian from pixel to pixel: each ratio is the last one times `bend`.
                alpha = opacity * math.exp(-_HALF * (uu * du * du + vv * dv * dv) - cross * du)
                ratio = math.exp(-uu * (du + _HALF) - cross)
                for column in range(start, stop):
                    passed = clear[row - top, column - left]
                    if passed > _OPAQUE:
                        weight = min(alpha, _LARGEST) * passed
                        pixel = drawn[row - top, column - left]
                        pixel[0] += weight * red
                        pixel[1] += weight * green
                        pixel[2] += weight * blue
                        pixel[3] += weight * depth
                        pixel[4] += weight
                        passed -= weight
                        clear[row - top, column - left] = passed
                        if passed <= _OPAQUE:
                            still_open -= 1
                    alpha *= ratio
                    ratio *= bend
            if still_open == 0:
                break
        image[top:bottom, left:right] = drawn[: bottom - top, : right - left]
    return image
