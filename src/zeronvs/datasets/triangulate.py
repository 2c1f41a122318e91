"""Sparse depth of posed frames without any: corners matched along epipolar lines.

RealEstate10K and ACID publish cameras but no points, and the viewer scale (paper, section 3.3)
needs some depth of every view. With known cameras a corner of one frame can lie in another only on
its epipolar line; it is searched there in a few frames at different distances, and a depth is kept
where at least two of them agree.
"""

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.rays import pixel_rays

CORNERS = 500
"""Maximum number of corners per frame."""
PATCH_PX = 7
"""Side of the patches that are compared."""
STEPS = 160
"""Inverse depths that are tried along each line."""
MAX_SHIFT = 0.45
"""The nearest depth moves a corner by this share of the image, at a sideways baseline."""
MIN_CORRELATION = 0.85
"""Normalised correlation of patches below this is no match."""
MIN_LEAD = 0.05
"""The best candidate must beat the best one elsewhere on the line by this correlation."""
AGREEMENT = 0.06
"""Depths of two frames within this ratio agree."""
MIN_PARALLAX_PX = 2.0
"""A match that moved less along its line does not determine a depth."""
BASELINES = (1 / 24, 1 / 12, 1 / 6, 1 / 3)
"""Distances of the other frames, in units of the extent of the camera path."""
MAX_ROTATION_RAD = 0.45


def triangulate(
    read: Callable[[int], UInt8[ndarray, "h w 3"]],
    cameras: list[Camera],
    *,
    only: list[int] | None = None,
) -> list[Float[ndarray, "h w"]]:
    """Return a sparse depth map for each frame, scene units; 0 = unknown.

    Args:
        read: Returns the pixels of a frame; called for frames that are matched alone.
        cameras: Single cameras, one a frame, whose poses are correct.
        only: Frames whose depth is wanted; None: all.
    """
    grey = cache(lambda index: _grey(read(index)))
    described = lru_cache(maxsize=24)(lambda index: _describe(grey(index)))
    positions = torch.stack([camera.position for camera in cameras]).double()
    axes = torch.stack([camera.camera_to_world[:3, 2] for camera in cameras]).double()
    depths = []
    for index in range(len(cameras)) if only is None else only:
        camera = cameras[index]
        drawn = np.zeros(camera.image_size_px, np.float32)
        others = _others(index, positions, axes)
        corner = _corners(grey(index))
        if len(others) >= 2 and len(corner):
            patches = _at(described(index), corner)
            candidates = torch.stack(
                [_along_lines(corner, patches, camera, cameras[o], described(o)) for o in others]
            )
            depth_z = _agreed(candidates)
            known = torch.isfinite(depth_z)
            column, row = corner[known].T.numpy()
            drawn[row, column] = depth_z[known].float().numpy()
        depths.append(drawn)
    return depths


def _grey(image: ndarray) -> Float[Tensor, "h w"]:
    weights = torch.tensor([0.299, 0.587, 0.114])
    return torch.from_numpy(image.astype(np.float32)) @ weights / 255


def _describe(grey: Float[Tensor, "h w"]) -> Float[Tensor, "h w p"]:
    """Return the patch about each pixel with mean 0 and length 1; flat patches are 0."""
    half = PATCH_PX // 2
    padded = F.pad(grey[None, None], (half, half, half, half), mode="replicate")
    patches = F.unfold(padded, PATCH_PX)[0].T.reshape(*grey.shape, -1)
    patches = patches - patches.mean(-1, keepdim=True)
    length = patches.norm(dim=-1, keepdim=True)
    return torch.where(length > 0.1, patches / length.clamp_min(1e-6), 0.0)


def _corners(grey: Float[Tensor, "h w"]) -> Int[Tensor, "n 2"]:
    """Return (column, row) of the strongest corners (least eigenvalue of the structure tensor)."""
    blurred = F.avg_pool2d(grey[None, None], 3, 1, 1)
    across = F.pad(blurred[..., 2:] - blurred[..., :-2], (1, 1))
    down = F.pad(blurred[..., 2:, :] - blurred[..., :-2, :], (0, 0, 1, 1))
    tensor = torch.cat([across**2, down**2, across * down], 1)
    a, b, c = F.avg_pool2d(tensor, 5, 1, 2)[0]
    strength = 0.5 * (a + b) - (0.25 * (a - b) ** 2 + c**2).sqrt()
    peak = strength == F.max_pool2d(strength[None], 5, 1, 2)[0]
    edge = PATCH_PX
    inner = torch.zeros_like(peak)
    inner[edge:-edge, edge:-edge] = True
    candidate = torch.where(peak & inner & (strength > 1e-5), strength, 0.0).flatten()
    value, flat = candidate.topk(min(CORNERS, candidate.numel()))
    flat = flat[value > 0]
    return torch.stack([flat % grey.shape[1], flat // grey.shape[1]], dim=-1)


def _others(index: int, positions: Float[Tensor, "n 3"], axes: Float[Tensor, "n 3"]) -> list[int]:
    """Choose frames of a similar viewing direction at several distances."""
    extent = float((positions - positions.mean(0)).norm(dim=-1).max()) * 2
    distance = (positions - positions[index]).norm(dim=-1)
    angle = torch.arccos((axes @ axes[index]).clamp(-1, 1))
    usable = (angle < MAX_ROTATION_RAD) & (distance > 0.01 * extent)
    chosen: list[int] = []
    for part in BASELINES:
        off = (distance - part * extent).abs()
        off = torch.where(usable, off, torch.inf)
        best = int(off.argmin())
        if bool(torch.isfinite(off[best])) and best not in chosen:
            chosen.append(best)
    return chosen


def _along_lines(
    corner: Int[Tensor, "n 2"],
    patches: Float[Tensor, "n p"],
    camera: Camera,
    other: Camera,
    described: Float[Tensor, "h w p"],
) -> Float[Tensor, " n"]:
    """Return the depth at which each corner appears again in another frame; NaN where it does not.

    A corner at inverse depth w lies at (ray + w * shift) in the other camera, up to scale: ray and
    shift are the direction of its ray (to depth 1) and the offset of the first camera, both in the
    axes of the other. So w = 0 is at infinity, and steps of w are about even along the line.
    """
    height, width = other.image_size_px
    # Direction to depth_z = 1 of each corner's pixel centre, world axes, then the other's axes.
    rays = pixel_rays(camera.to(dtype=torch.float64), corner.double() + 0.5)
    world_ray = rays.directions / rays.z_per_unit_distance[:, None]
    world_to_other = other.camera_to_world[:3, :3].double().T
    ray = world_ray @ world_to_other.T
    shift = world_to_other @ (camera.position - other.position).double()
    # Candidates: from infinity to the depth that moves a corner by MAX_SHIFT of the image.
    focal_px = float(camera.intrinsics_px[0, 0])
    nearest = focal_px * float(shift.norm()) / (MAX_SHIFT * width)
    inverse = torch.linspace(0, 1, STEPS, dtype=torch.float64) / nearest
    # Where each candidate falls in the other image: axes corner, step.
    in_other = ray[:, None] + inverse[:, None] * shift
    depth_z = -in_other[..., 2]
    ahead = depth_z > 1e-6
    depth_z = torch.where(ahead, depth_z, 1.0)
    matrix = other.intrinsics_px.double()
    u = matrix[0, 0] * in_other[..., 0] / depth_z + matrix[0, 2]
    v = -matrix[1, 1] * in_other[..., 1] / depth_z + matrix[1, 2]
    edge = PATCH_PX // 2
    inside = ahead & (u > edge) & (u < width - edge) & (v > edge) & (v < height - edge)
    # Correlation of the corner's patch with the patch at each candidate.
    column, row = u.clamp(0, width - 1).long(), v.clamp(0, height - 1).long()
    correlation = (described[row, column] * patches[:, None]).sum(-1)
    correlation = torch.where(inside, correlation, -1.0)
    best, step = correlation.max(1)
    # The best candidate must beat all that lie more than 4 px from it on the line.
    uv = torch.stack([u, v], -1)
    best_uv = uv.take_along_dim(step[:, None, None], 1)
    elsewhere = (uv - best_uv).norm(dim=-1) > 4
    rival = torch.where(elsewhere, correlation, -1.0).amax(1)
    # A corner near its position at infinity (step 0) has no parallax to measure a depth with.
    parallax = (best_uv[:, 0] - uv[:, 0]).norm(dim=-1)
    good = (best > MIN_CORRELATION) & (best - rival > MIN_LEAD)
    good &= (parallax > MIN_PARALLAX_PX) & (step > 0) & (step < STEPS - 1)
    w = _refined(correlation, step, inverse)
    return torch.where(good, 1 / w.clamp_min(1e-12), torch.nan)


def _refined(
    correlation: Float[Tensor, "n s"], step: Int[Tensor, " n"], inverse: Float[Tensor, " s"]
) -> Float[Tensor, " n"]:
    """Return the inverse depth of the middle of the peak: the mean, weighted by correlation."""
    near = (step[:, None] + torch.arange(-2, 3)).clamp(0, len(inverse) - 1)
    around = correlation.take_along_dim(near, 1)
    weight = (around - around.amax(1, keepdim=True) + 0.12).clamp_min(0).double()
    return (weight * inverse[near]).sum(1) / weight.sum(1)


def _at(described: Float[Tensor, "h w p"], corner: Int[Tensor, "n 2"]) -> Float[Tensor, "n p"]:
    return described[corner[:, 1], corner[:, 0]]


def _agreed(depth_z: Float[Tensor, "others n"]) -> Float[Tensor, " n"]:
    """Return the depth on which most frames agree, at least two of them; NaN elsewhere."""
    close = ((depth_z[:, None] / depth_z[None]).log().abs() < AGREEMENT) & depth_z.isfinite()[
        :, None
    ]
    votes = close.sum(0)
    best, which = votes.max(0)
    chosen = close[:, which, torch.arange(depth_z.shape[1])]
    total = torch.where(chosen, 1 / depth_z, 0.0).sum(0)
    return torch.where(best >= 2, best / total.clamp_min(1e-12), torch.nan)
