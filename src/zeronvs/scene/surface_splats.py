"""Flat splats on the surfaces that a view with depth shows."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.view import View
from zeronvs.cameras.warp import unproject
from zeronvs.splats import GaussianSplats

SAME_COLOR = 6 / 255
"""Pixels whose colours differ by less may share one splat ..."""
SAME_RANGE = 0.005
"""... where the logarithms of their ranges differ by less than this per pixel."""
LEAST_COSINE = 0.3
"""Splats on surfaces that run away more steeply are turned towards the camera: no needles."""


def alike_blocks(
    image: Float[Tensor, "3 h w"],
    inverse_range: Float[Tensor, "h w"],
    keep: Bool[Tensor, "h w"] | None = None,
    least_side: Int[Tensor, "h w"] | None = None,
) -> Iterator[tuple[int, Bool[Tensor, "rows columns"]]]:
    """Split an image into blocks of 4 x 4, 2 x 2 and single pixels that are nearly constant.

    Args:
        image: RGB in [0, 1].
        inverse_range: Inverse depth or range.
        keep: Pixels that are wanted; None: all.
        least_side: Blocks of at most this side (1, 2 or 4) are made whatever they show; None: 1.

    Yields:
        Side of the blocks.
        Which blocks of that side are alike inside and lie in no larger one.
    """
    height_px, width_px = inverse_range.shape
    left = torch.ones(height_px, width_px, dtype=torch.bool) if keep is None else keep.clone()
    for block in (4, 2):
        rows, columns = height_px // block * block, width_px // block * block
        values = torch.cat([image, inverse_range[None].log()])[:, :rows, :columns]
        # The blocks around must be alike, too: a wide splat reaches into them.
        high = F.max_pool2d(F.max_pool2d(values[None], block), 3, 1, 1)[0]
        low = -F.max_pool2d(F.max_pool2d(-values[None], block), 3, 1, 1)[0]
        alike = ((high - low)[:3] < SAME_COLOR).all(0)
        alike &= (high - low)[3] < SAME_RANGE * 3 * block
        if least_side is not None:
            alike |= -F.max_pool2d(-least_side[None, :rows, :columns].float(), block)[0] >= block
        # Not one pixel of it may be taken or unwanted.
        wanted = left[:rows, :columns].float()[None, None]
        alike &= F.avg_pool2d(wanted, block)[0, 0] == 1
        left[:rows, :columns] &= ~alike.repeat_interleave(block, 0).repeat_interleave(block, 1)
        if alike.any():
            yield block, alike
    yield 1, left


def surface_splats(
    view: View,
    keep: Bool[Tensor, "h w"],
    sigma_px: float,
    opacity: Float[Tensor, "h w"] | None = None,
) -> GaussianSplats:
    """Return flat splats on the surfaces of a view, as wide as the footprints of their pixels.

    Args:
        view: One view with depth.
        keep: Which pixels get one.
        sigma_px: Standard deviation seen from the view's camera.
        opacity: In [0, 1]; None: nearly opaque.
    """
    points = unproject(view)
    away = F.normalize(points - view.camera.position, dim=-1)
    distance = (points - view.camera.position).norm(dim=-1)
    normal = _surface_normals(points, away)
    footprint = sigma_px * distance / view.camera.intrinsics_px[0, 0]
    return discs(points, normal, away, footprint, view.image, keep, opacity)


def discs(
    points: Float[Tensor, "h w 3"],
    normal: Float[Tensor, "h w 3"],
    away: Float[Tensor, "h w 3"],
    footprint: Float[Tensor, "h w"],
    image: Float[Tensor, "3 h w"],
    keep: Bool[Tensor, "h w"],
    opacity: Float[Tensor, "h w"] | None = None,
) -> GaussianSplats:
    """Return discs that look round from where the rays `away` come from."""
    normal, away, points = normal[keep], away[keep], points[keep]
    cosine = -(normal * away).sum(-1, keepdim=True)
    # The disc is longer by 1 / cosine along the direction in which the surface runs away.
    along = away + cosine * normal
    level = torch.stack([-away[:, 1], away[:, 0], torch.zeros_like(away[:, 0])], -1)
    level = level - (level * normal).sum(-1, keepdim=True) * normal
    along = F.normalize(torch.where(along.norm(dim=-1, keepdim=True) > 1e-3, along, level), dim=-1)
    across = torch.linalg.cross(along, normal)
    size = footprint[keep]
    return GaussianSplats(
        points,
        torch.stack([size, size / cosine[:, 0], 0.1 * size], dim=-1),
        quaternion(torch.stack([across, along, normal], dim=-1)),
        torch.full_like(size, 0.99) if opacity is None else opacity[keep],
        image.permute(1, 2, 0)[keep],
    )


def _surface_normals(
    points: Float[Tensor, "h w 3"], away: Float[Tensor, "h w 3"]
) -> Float[Tensor, "h w 3"]:
    """Return unit normals towards the camera, none steeper than `LEAST_COSINE`."""

    def tangent(dim: int) -> Tensor:
        # Of the steps to the two neighbours, the shorter: the other may cross a depth edge.
        step = points.diff(dim=dim)
        ahead = torch.cat([step, step.narrow(dim, -1, 1)], dim)
        behind = torch.cat([step.narrow(dim, 0, 1), step], dim)
        shorter = ahead.norm(dim=-1, keepdim=True) <= behind.norm(dim=-1, keepdim=True)
        return torch.where(shorter, ahead, behind)

    normal = F.normalize(torch.linalg.cross(tangent(0), tangent(1)), dim=-1)
    cosine = -(normal * away).sum(-1, keepdim=True)
    normal, cosine = normal * torch.where(cosine < 0, -1.0, 1.0), cosine.abs()
    sideways = F.normalize(normal + cosine * away, dim=-1)
    least = math.sqrt(1 - LEAST_COSINE**2) * sideways - LEAST_COSINE * away
    return F.normalize(torch.where(cosine < LEAST_COSINE, least, normal), dim=-1)


def quaternion(rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 4"]:
    """Return the quaternions w, x, y, z of rotation matrices.

    The largest of the four squared components is found first and divides the rest (Shepperd 1978).
    """
    r = rotation
    trace = r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2]
    # 4 w^2, 4 x^2, 4 y^2, 4 z^2, each minus 1.
    squared = torch.stack([trace, *(2 * r[:, i, i] - trace for i in range(3))], dim=-1)
    best = squared.argmax(-1)
    # Row k holds the four components times 4 * component k.
    wx, wy, wz = r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]
    xy, xz, yz = r[:, 0, 1] + r[:, 1, 0], r[:, 0, 2] + r[:, 2, 0], r[:, 1, 2] + r[:, 2, 1]
    w, x, y, z = (squared + 1).unbind(-1)
    rows = torch.stack(
        [
            torch.stack([w, wx, wy, wz], -1),
            torch.stack([wx, x, xy, xz], -1),
            torch.stack([wy, xy, y, yz], -1),
            torch.stack([wz, xz, yz, z], -1),
        ],
        dim=1,
    )
    chosen = rows.gather(1, best[:, None, None].expand(-1, 1, 4))[:, 0]
    return F.normalize(chosen, dim=-1)
