"""Scene scale: how many scene units make one unit of the model (the paper's s and q, §3.2-3.3).

The scale of a single photograph is ambiguous, so the model is conditioned on translations divided
by a scale. Here is the scale of one view; those of a whole scene (norm, agg) are computed in
`zeronvs.shards.statistics`. Depth maps are depth along the optical axis in scene units; 0 means
unknown, as in the sparse depth of structure from motion.
"""

import torch
from jaxtyping import Float
from torch import Tensor

DEPTH_RANGE = (1e-3, 1e3)
"""Depth, and disparity too, is kept in this range while disparity is aligned (published code)."""


def viewer_scale(
    depth_z: Float[Tensor, "*batch h w"], *, quantile: float = 0.2, stride: int = 4
) -> Float[Tensor, "*batch"]:
    """Return a near depth of the input view (q of `6DoF+1, viewer`, §3.3): Q20 of dense depth.

    Args:
        depth_z: Dense depth of the input view, scene units: see `fill_depth`.
        stride: Only every stride-th row and column is read, as the published code does.
    """
    return _quantile(depth_z[..., ::stride, ::stride].flatten(-2), quantile)


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
    # On the CPU: Apple GPUs have no float64, and ten rounds would wait for any GPU.
    relative, target = relative.cpu().double(), target.cpu().double()
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
