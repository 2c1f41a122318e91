"""Depth with its edges where the photograph has its own.

A depth network predicts at a fraction of the photograph's resolution, and its edges are ramps.
Lifted to 3D as they are, ramps become rubber sheets between a thing and what lies behind it.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.view import View, box_mean, resize_image

LEVELS = 32
"""Levels of disparity between which the median is interpolated."""
COARSE_SIDE_PX = 224
"""Longer side at which the filter's coefficients are computed (fast guided filter)."""
EPSILON = 1e-3
"""Colour variance below which the filter smooths (He et al. 2010, Eq. 5)."""
RAMP_RADIUS_PX = 4
"""Half the window at `COARSE_SIDE_PX` in which disparity is compared with a plane's ..."""
RAMP_RESIDUALS = (0.004, 0.01)
"""... and the relative residuals at which refinement begins, and is complete."""
EDGE_RADIUS_PX, SLOPE_RADIUS_PX = 2, 7
"""Half the windows at `COARSE_SIDE_PX` whose ranges of log disparity tell edges from slopes ..."""
EDGE_SHARES = (0.4, 0.6)
"""... and the smaller over the larger range at which refinement begins, and is complete ..."""
EDGE_RANGES = (0.02, 0.05)
"""... and the same for the smaller range itself."""
TOGGLE_RADIUS_PX, TOGGLE_RATIO = 3, 1.1
"""Half the window at `COARSE_SIDE_PX` in which a ramp becomes a step, and the least step."""
PASSES = ((512, 14), (1024, 5))
"""Longer side of the image and radius at `COARSE_SIDE_PX` of each pass."""
SAME_SURFACE = 0.02
"""Neighbours whose log disparities differ by less are connected."""
SPECKLE_SIDE = 0.015
"""Surfaces smaller than a square of this side, over the image's longer side, are speckle."""
SMOOTH_RADIUS_PX, SMOOTH_SIGMA = 2, 0.012
"""Half the window in which surfaces are smoothed, and the step in log disparity that survives."""


def refine_depth(view: View) -> View:
    """Return a view whose depth has its edges where its image has them.

    The ramps become steps, which a weighted median of disparity then moves, the weights from the
    image: each level of disparity is filtered with a guided filter (Ma et al., ICCV 2013, section
    4; He & Sun, arXiv:1505.00996), and the median of the histogram of each pixel is its disparity.
    A median lies on one of two surfaces where a mean would lie between them. Where the image has
    texture at an edge, the median has speckle, which is removed; steps too small to hide anything
    are smoothed, since between their sides the splats would part.

    Args:
        view: One view with depth everywhere.
    """
    if view.depth_z is None:
        raise ValueError("the view has no depth to refine")
    size_px = view.camera.image_size_px
    predicted = 1.0 / view.depth_z[None]
    share = _near_ramps(predicted)
    disparity = torch.lerp(predicted, _toggled_ramps(predicted), share)
    for side_px, radius_px in PASSES:
        factor = min(1.0, side_px / max(size_px))
        pass_px = (max(1, round(size_px[0] * factor)), max(1, round(size_px[1] * factor)))
        image = resize_image(view.image, pass_px)
        disparity = resize_image(disparity, pass_px)
        median = weighted_median(disparity[0], image, radius_px)[None]
        disparity = torch.lerp(
            resize_image(predicted, pass_px), median, resize_image(share, pass_px).clamp(0, 1)
        )
    disparity = without_speckle(sharpen_steps(disparity[0]))
    disparity = F.interpolate(disparity[None, None], size_px, mode="nearest")[0, 0]
    return view.with_depth(1.0 / smooth_surfaces(disparity))


def _near_ramps(disparity: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Return how much depth is to be refined: 1 near the ramp of a depth edge, 0 on flat surfaces.

    A plane's disparity is affine in the image, so what an affine function leaves over in a window
    tells surfaces from edges. A median on a surface would copy the texture of the image into it.
    """
    factor = min(1.0, COARSE_SIDE_PX / max(disparity.shape[-2:]))
    height_px, width_px = (max(1, round(side * factor)) for side in disparity.shape[-2:])
    value = resize_image(disparity, (height_px, width_px))[0].double()
    y, x = torch.meshgrid(
        torch.arange(height_px, dtype=value.dtype),
        torch.arange(width_px, dtype=value.dtype),
        indexing="ij",
    )
    moments = [value, x, y, value * value, x * x, y * y, value * x, value * y]
    mean, mx, my, vv, xx, yy, vx, vy = box_mean(torch.stack(moments), RAMP_RADIUS_PX)
    # The variance that regression on x and y, uncorrelated in a window, leaves unexplained.
    variance = vv - mean * mean
    for product, center, square in ((vx, mx, xx), (vy, my, yy)):
        variance -= (product - mean * center) ** 2 / (square - center * center).clamp_min(1e-6)
    residual = variance.clamp_min(0).sqrt() / mean
    # In the middle of a ramp it is affine, too: the whole of it is between two large residuals.
    residual = highest(residual.float(), 2 * RAMP_RADIUS_PX)
    share = _ramp(residual, RAMP_RESIDUALS) * _edge_share(value.float().log())
    return resize_image(box_mean(share[None], 2), (disparity.shape[-2], disparity.shape[-1])).clamp(
        0, 1
    )


def _edge_share(log_disparity: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return 1 around edges of a coarse disparity and 0 on slopes: a carpet that runs away is none.

    Across an edge disparity changes within a few pixels, on a slope all over a larger window.
    """
    near, wide = (
        highest(log_disparity, radius) - lowest(log_disparity, radius)
        for radius in (EDGE_RADIUS_PX, SLOPE_RADIUS_PX)
    )
    edge = _ramp(near / wide.clamp_min(1e-6), EDGE_SHARES) * _ramp(near, EDGE_RANGES)
    return highest(edge, 2 * EDGE_RADIUS_PX)


def _ramp(values: Float[Tensor, "h w"], ends: tuple[float, float]) -> Float[Tensor, "h w"]:
    """Return 0 below the first end, 1 above the second, and linear between them."""
    return ((values - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)


def _toggled_ramps(disparity: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Return disparity whose ramps are steps: a median of a ramp's values would lie on it."""
    size_px = (disparity.shape[-2], disparity.shape[-1])
    factor = min(1.0, COARSE_SIDE_PX / max(size_px))
    coarse_px = (max(1, round(size_px[0] * factor)), max(1, round(size_px[1] * factor)))
    coarse = resize_image(disparity, coarse_px)[0]
    toggled, low, high = _toggle(coarse, TOGGLE_RADIUS_PX)
    return resize_image(torch.where(high > low * TOGGLE_RATIO, toggled, coarse)[None], size_px)


def _toggle(
    image: Float[Tensor, "h w"], radius_px: int
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return the nearer of a window's two extremes (Kramer & Bruckner 1975), and the extremes."""
    low, high = lowest(image, radius_px), highest(image, radius_px)
    return torch.where(image - low < high - image, low, high), low, high


def weighted_median(
    values: Float[Tensor, "h w"], guide: Float[Tensor, "3 h w"], radius_px: int
) -> Float[Tensor, "h w"]:
    """Return the median of the values around each pixel, weighted by likeness in the guide.

    Args:
        values: What is filtered.
        guide: RGB in [0, 1].
        radius_px: Half the window, in pixels of the guide at `COARSE_SIDE_PX`.
    """
    low, high = values.amin(), values.amax()
    if high - low < 1e-6 * high.abs().clamp_min(1e-6):
        return values
    factor = min(1.0, COARSE_SIDE_PX / max(guide.shape[-2:]))
    height_px, width_px = guide.shape[-2:]
    coarse_px = (max(1, round(height_px * factor)), max(1, round(width_px * factor)))
    level = resize_image(values[None], coarse_px)[0]
    level = (level - low) / (high - low) * (LEVELS - 1)
    # Each value is shared between the two levels next to it, so that the median can lie between.
    indices = torch.arange(LEVELS, device=values.device, dtype=values.dtype)
    histogram = (1 - (level - indices[:, None, None]).abs()).clamp_min(0)
    coefficients = _guided_filter(histogram, resize_image(guide, coarse_px), radius_px)
    counts = []
    for one in coefficients:
        fine = F.interpolate(one[None], guide.shape[-2:], mode="bilinear", align_corners=False)[0]
        counts.append((fine[:3] * guide).sum(0).add_(fine[3]).clamp_min_(0))
    half = 0.5 * torch.stack(counts).sum(0)
    below, median = torch.zeros_like(half), torch.full_like(half, -1.0)
    for index, count in enumerate(counts):
        within = ((half - below) / count.clamp_min(1e-6)).clamp(0, 1)
        reached = (median < 0) & (below + count >= half)
        median = torch.where(reached, index - 0.5 + within, median)
        below = below + count
    return low + (high - low) * median.clamp(0, LEVELS - 1) / (LEVELS - 1)


def _guided_filter(
    inputs: Float[Tensor, "l h w"], guide: Float[Tensor, "3 h w"], radius_px: int
) -> Float[Tensor, "l 4 h w"]:
    """Return the linear coefficients of a guided filter with a colour guide (He et al., Eq. 19)."""
    mean = box_mean(guide, radius_px)
    products = box_mean((guide[:, None] * guide[None]).flatten(0, 1), radius_px).unflatten(
        0, (3, 3)
    )
    covariance = (products - mean[:, None] * mean[None]).permute(2, 3, 0, 1)
    covariance = covariance + EPSILON * torch.eye(3, device=guide.device)
    input_mean = box_mean(inputs, radius_px)
    cross = box_mean((inputs[:, None] * guide).flatten(0, 1), radius_px).unflatten(0, (-1, 3))
    cross = cross - input_mean[:, None] * mean
    slope = torch.einsum("hwij,ljhw->lihw", torch.linalg.inv(covariance), cross)
    offset = input_mean - (slope * mean).sum(1)
    joined = torch.cat([slope, offset[:, None]], dim=1)
    return box_mean(joined.flatten(0, 1), radius_px).unflatten(0, (-1, 4))


def sharpen_steps(
    disparity: Float[Tensor, "h w"], radius_px: int = 2, ratio: float = 1.03
) -> Float[Tensor, "h w"]:
    """Move each pixel on the ramp between two surfaces to the nearer value of the two.

    A toggle mapping where the window's extremes differ by more than `ratio`.
    """
    for _ in range(2):
        toggled, low, high = _toggle(disparity, radius_px)
        # Only on ramps: a slanted plane lies in the middle of its window everywhere, and stays.
        curved = (disparity - 0.5 * (low + high)).abs() > 0.15 * (high - low)
        disparity = torch.where((high > low * ratio) & curved, toggled, disparity)
    return disparity


def without_speckle(disparity: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return disparity whose small surfaces are given that of the nearest large one.

    Surfaces are connected components of neighbours with nearly the same disparity.
    """
    height_px, width_px = disparity.shape
    values = disparity.log().numpy()
    index = np.arange(values.size, dtype=np.int32).reshape(values.shape)
    across = np.abs(np.diff(values, axis=1)) < SAME_SURFACE
    down = np.abs(np.diff(values, axis=0)) < SAME_SURFACE
    first = np.concatenate([index[:, :-1][across], index[:-1][down]])
    second = np.concatenate([index[:, 1:][across], index[1:][down]])
    graph = sparse.coo_matrix(
        (np.ones(len(first), bool), (first, second)), shape=(values.size, values.size)
    )
    _, label = csgraph.connected_components(graph, directed=False)
    size = np.bincount(label)[label].reshape(values.shape)
    large = torch.from_numpy(size >= (SPECKLE_SIDE * max(height_px, width_px)) ** 2)
    if not large.any():
        return disparity
    _, row, column = nearest_pixels(large)
    return disparity[row, column]


def smooth_surfaces(disparity: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return disparity smoothed where it has no large step: a bilateral filter of its logarithm."""
    value, side = disparity.log(), 2 * SMOOTH_RADIUS_PX + 1
    for _ in range(2):
        padded = F.pad(value[None, None], (SMOOTH_RADIUS_PX,) * 4, mode="replicate")[0, 0]
        total, weight = torch.zeros_like(value), torch.zeros_like(value)
        for row in range(side):
            for column in range(side):
                other = padded[row : row + value.shape[0], column : column + value.shape[1]]
                share = torch.exp(-0.5 * ((other - value) / SMOOTH_SIGMA) ** 2)
                total, weight = total + share * other, weight + share
        value = total / weight
    return value.exp()


def highest(image: Float[Tensor, "h w"], radius_px: int) -> Float[Tensor, "h w"]:
    """Return the highest value in a square window."""
    side = 2 * radius_px + 1
    pooled = F.max_pool2d(image[None, None], (1, side), 1, (0, radius_px))
    return F.max_pool2d(pooled, (side, 1), 1, (radius_px, 0))[0, 0]


def lowest(image: Float[Tensor, "h w"], radius_px: int) -> Float[Tensor, "h w"]:
    """Return the lowest value in a square window."""
    return -highest(-image, radius_px)


def grown(mask: Bool[Tensor, "h w"], by_px: int) -> Bool[Tensor, "h w"]:
    """Return a mask with all pixels within a distance, counted along rows and columns."""
    for _ in range(by_px):
        down, right = mask[:-1].clone(), mask[:, :-1].clone()
        up, left = mask[1:].clone(), mask[:, 1:].clone()
        mask = mask.clone()
        mask[1:] |= down
        mask[:-1] |= up
        mask[:, 1:] |= right
        mask[:, :-1] |= left
    return mask


def shrunk(mask: Bool[Tensor, "h w"], by_px: int) -> Bool[Tensor, "h w"]:
    """Return a mask without the pixels within a distance of others or of the image's border."""
    outside = F.pad(~mask, (1, 1, 1, 1), value=True)
    return ~grown(outside, by_px)[1:-1, 1:-1]


def nearest_pixels(
    mask: Bool[Tensor, "h w"], sampling: tuple[float, float] = (1.0, 1.0)
) -> tuple[Float[Tensor, "h w"], Int64[Tensor, "h w"], Int64[Tensor, "h w"]]:
    """Return distance, row and column of the nearest pixel of a mask.

    Args:
        mask: At least one pixel is True.
        sampling: What a step down and a step to the right count.
    """
    found: Any = ndimage.distance_transform_edt(
        ~mask.numpy(), sampling=sampling, return_indices=True
    )
    distance, (row, column) = found
    return (
        torch.from_numpy(distance).float(),
        torch.from_numpy(row).long(),
        torch.from_numpy(column).long(),
    )


def steps(disparity: Float[Tensor, "h w"], focal_px: float, motion: float) -> Bool[Tensor, "h w"]:
    """Return the pixels on the near side of a depth edge.

    An edge is where neighbouring pixels come apart by more than two pixels when the camera moves:
    between them, something else becomes visible. A slope, which falls on one side as it rises on
    the other, is none.

    Args:
        disparity: Inverse depth, per scene unit.
        focal_px: Focal length.
        motion: How far the camera moves, scene units.
    """
    fall, rise = disparity - lowest(disparity, 1), highest(disparity, 1) - disparity
    return (fall * focal_px * motion > 2.0) & (fall > 2.5 * rise)
