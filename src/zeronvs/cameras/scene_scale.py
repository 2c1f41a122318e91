"""Scene scale: how many scene units make one unit of the model (the paper's s and q, §3.2-3.3).

The scale of a single photograph is ambiguous, so the model is conditioned on translations divided
by a scale. Each choice of it is a pure function here; quantiles are arguments with the published
defaults. Depth maps are depth along the optical axis in scene units; 0 means unknown, as in the
sparse depth of structure from motion.
"""

import torch
from jaxtyping import Float
from torch import Tensor

DEPTH_RANGE = (1e-3, 1e3)
"""Depth, and disparity too, is kept in this range while disparity is aligned (published code)."""


def camera_norm_scale(positions: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch"]:
    """Return the mean distance of the cameras to their centroid (s of `6DoF+1, norm`, §3.2)."""
    centroid = positions.mean(dim=-2, keepdim=True)
    return (positions - centroid).norm(dim=-1).mean(dim=-1)


def aggregate_depth_scale(
    depth_z: Float[Tensor, "n h w"], *, pixel_quantile: float = 0.05, view_quantile: float = 0.1
) -> Float[Tensor, ""]:
    """Return a near depth of a whole scene: Q10 over views of Q5 over pixels.

    This is q of `6DoF+1, agg` (§3.3), as in Stereo Magnification. Unknown pixels do not count, nor
    do views without a known pixel.

    Args:
        depth_z: Depth of all n views of a scene, scene units; 0 = unknown.
        pixel_quantile: Quantile over the known pixels of each view.
        view_quantile: Quantile over the views.

    Returns:
        The scale in scene units; NaN where no pixel of the scene is known.
    """
    near = [
        _quantile(view_depth[view_depth != 0], pixel_quantile)
        for view_depth in depth_z
        if bool((view_depth != 0).any())
    ]
    if not near:
        return torch.full((), torch.nan, dtype=depth_z.dtype, device=depth_z.device)
    return _quantile(torch.stack(near), view_quantile)


def viewer_scale(
    depth_z: Float[Tensor, "*batch h w"], *, quantile: float = 0.2, stride: int = 4
) -> Float[Tensor, "*batch"]:
    """Return a near depth of the input view (q of `6DoF+1, viewer`, §3.3): Q20 of dense depth.

    Args:
        depth_z: Dense depth of the input view, scene units: see `fill_depth`.
        stride: Only every stride-th row and column is read, as the published code does.
    """
    return _quantile(depth_z[..., ::stride, ::stride].flatten(-2), quantile)


def metric_scale(
    metric_depth_m: Float[Tensor, "*batch h w"], depth_z: Float[Tensor, "*batch h w"]
) -> Float[Tensor, "*batch"]:
    """Return scene units per metre (scale of `6DoF+1, metric`): the least-squares ratio of depths.

    In the published code, not in the paper.

    Args:
        metric_depth_m: Depth that a metric network predicts, metres.
        depth_z: Depth of the same view in scene units; pixels with 0 do not count.
    """
    known_m = torch.where(depth_z != 0, metric_depth_m, torch.zeros_like(metric_depth_m))
    return (known_m * depth_z).sum((-2, -1)) / (known_m * known_m).sum((-2, -1)).clamp_min(1e-3)


def align_disparity(
    disparity: Float[Tensor, "b h w"], sparse_depth_z: Float[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    """Turn monocular disparity into depth in scene units, by the scale and shift of known pixels.

    Scale and shift are the least-squares fit to 1 / depth over the known pixels (§A.1, after
    MiDaS). The normal equations are solved in closed form in the type of the input: with float32
    this repeats the rounding of the published code, which changes depth by up to 3e-5.

    Args:
        disparity: Relative inverse depth, up to scale and shift, as monocular networks predict it.
        sparse_depth_z: Known depth, scene units; 0 = unknown. Where the known pixels do not fix
            scale and shift (none, or one disparity), the depth is the largest of `DEPTH_RANGE`
            everywhere, as in the published code.

    Returns:
        Depth along the optical axis in scene units, within `DEPTH_RANGE`.
    """
    least, most = DEPTH_RANGE
    known = (sparse_depth_z != 0).to(disparity.dtype)
    target = torch.where(sparse_depth_z != 0, 1 / sparse_depth_z.clamp(least, most), 0.0)
    a_00 = (known * disparity * disparity).sum((-2, -1))
    a_01 = (known * disparity).sum((-2, -1))
    a_11 = known.sum((-2, -1))
    b_0 = (known * disparity * target).sum((-2, -1))
    b_1 = (known * target).sum((-2, -1))
    determinant = a_00 * a_11 - a_01 * a_01
    solvable = determinant > 0
    divisor = torch.where(solvable, determinant, 1.0)
    scale = torch.where(solvable, (a_11 * b_0 - a_01 * b_1) / divisor, 0.0)
    shift = torch.where(solvable, (-a_01 * b_0 + a_00 * b_1) / divisor, 0.0)
    aligned = scale[:, None, None] * disparity + shift[:, None, None]
    return 1 / aligned.clamp(1 / most, 1 / least)


def fit_disparity(
    relative: Float[Tensor, " n"], target: Float[Tensor, " n"]
) -> tuple[float, float]:
    """Fit scale and shift of a relative disparity, robustly to wrong matches.

    Iteratively reweighted least squares (towards least absolute error). A fit of negative scale is
    replaced by the constant median.

    Args:
        target: 1 / depth at the same places, 1 / scene units.

    Returns:
        Scale (>= 0) and shift.
    """
    relative, target = relative.double(), target.double()
    weight = torch.ones_like(target)
    scale, shift = 0.0, float(target.median())
    for _ in range(10):
        mean_relative = (weight * relative).sum() / weight.sum()
        mean_target = (weight * target).sum() / weight.sum()
        spread = (weight * (relative - mean_relative) ** 2).sum().clamp_min(1e-12)
        both = (weight * (relative - mean_relative) * (target - mean_target)).sum()
        scale, shift = float(both / spread), float(mean_target - both / spread * mean_relative)
        residual = (scale * relative + shift - target).abs()
        weight = 1.0 / residual.clamp_min(float(residual.median().clamp_min(1e-6)))
    return (scale, shift) if scale > 0 else (0.0, float(target.median()))


def fill_depth(
    sparse_depth_z: Float[Tensor, "*batch h w"], dense_depth_z: Float[Tensor, "*batch h w"]
) -> Float[Tensor, "*batch h w"]:
    """Keep known depth and fill the holes with dense depth of the same scale (§A.1).

    Args:
        sparse_depth_z: Known depth, scene units; 0 = unknown.
        dense_depth_z: Depth of every pixel, scene units: see `align_disparity`.
    """
    return torch.where(sparse_depth_z != 0, sparse_depth_z, dense_depth_z)


def _quantile(values: Float[Tensor, "*batch n"], quantile: float) -> Float[Tensor, "*batch"]:
    """Return a quantile with linear interpolation, of any number of values.

    `torch.quantile` refuses more than 16 million values, which one large photograph has.
    """
    ordered = values.sort(dim=-1).values
    rank = quantile * (ordered.shape[-1] - 1)
    below = int(rank)
    above = min(below + 1, ordered.shape[-1] - 1)
    return torch.lerp(ordered[..., below], ordered[..., above], rank - below)
