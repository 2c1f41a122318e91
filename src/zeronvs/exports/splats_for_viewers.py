"""Splats as other programs should get them: closed when enlarged, and not too many.

Our own page widens what it draws when its window is larger than the photograph. Other viewers add
their low-pass of 0.3 px^2 in pixels of the window, whatever its size, so that splats of a third of
a pixel of the photograph come apart into a grid of dots. For files, splats are widened instead.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import quaternion
from zeronvs.splats import GaussianSplats

WIDENING_PX = 0.4
"""Standard deviation that is added to splats, pixels of the photograph; docs/numbers.md has what
it costs and gives."""
_SPREAD = 3.0
"""What the variance of the merged splats' centres is multiplied by: that of an even square is a
twelfth of its side squared, and splats close when their variance is a quarter of it."""
_FINEST, _COARSEST = 2.0**-14, 1.0
"""Sides of the cells that are tried, as angles seen from the photograph's camera."""
_TRIALS = 12
_PLACE_BITS = 16
_LEVELS = 64


def widened(splats: GaussianSplats, camera: Camera) -> GaussianSplats:
    """Return splats wider by `WIDENING_PX` of a camera's pixels along their surface.

    The thinnest axis is kept, so that surfaces stay thin, and so are opacities.
    """
    pixel = (splats.means - camera.position).norm(dim=-1) / camera.intrinsics_px[1, 1]
    wide = (splats.scales.square() + (WIDENING_PX * pixel[:, None]).square()).sqrt()
    thin = torch.nn.functional.one_hot(splats.scales.argmin(dim=1), 3).bool()
    return replace(splats, scales=torch.where(thin, splats.scales, wide))


def merged(splats: GaussianSplats, count: int, camera: Camera) -> GaussianSplats:
    """Return at most `count` splats: neighbours become one that covers what they do.

    Neighbours lie in one cell of a grid that is finer near the camera than far from it.
    """
    if len(splats) <= count:
        return splats
    fine, coarse = _FINEST, _COARSEST
    for _ in range(_TRIALS):
        middle = math.sqrt(fine * coarse)
        if len(_cells(splats.means - camera.position, middle).unique()) > count:
            fine = middle
        else:
            coarse = middle
    cell = _cells(splats.means - camera.position, coarse).unique(return_inverse=True)[1]
    joined = _joined(splats, cell)
    return joined[_footprint(joined).argsort(descending=True, stable=True)[:count]]


def _cells(offset: Float[Tensor, "n 3"], angle: float) -> Int64[Tensor, " n"]:
    """Return the cell of each point: a cube whose side is a power of two."""
    level = (offset.norm(dim=-1).clamp(min=1e-6) * angle).log2().floor()
    place = (offset / 2.0 ** level[:, None]).floor().long() + (1 << _PLACE_BITS - 1)
    key = level.long() + _LEVELS // 2
    for axis in place.unbind(-1):
        key = key << _PLACE_BITS | axis
    return key


def _joined(splats: GaussianSplats, cell: Int64[Tensor, " n"]) -> GaussianSplats:
    """Return one splat for each cell; those that are alone in theirs stay as they are."""
    count = int(cell.max()) + 1
    weight = _footprint(splats).double()
    total = weight.new_zeros(count).index_add_(0, cell, weight)

    def mean(values: Tensor) -> Tensor:
        """Average over the splats of each cell, by weight."""
        flat = values.double().flatten(1) * weight[:, None]
        summed = flat.new_zeros(count, flat.shape[1]).index_add_(0, cell, flat)
        return (summed / total[:, None]).view(count, *values.shape[1:])

    means = mean(splats.means)
    offset = splats.means.double() - means[cell]
    spread = offset[:, :, None] * offset[:, None, :]
    covariances = mean(splats.covariances + _SPREAD * spread)
    variances, axes = torch.linalg.eigh(covariances)
    # Eigenvectors may be mirrored; a rotation is not.
    axes = axes * torch.linalg.det(axes)[:, None, None].sign()
    joined = GaussianSplats(
        means.float(),
        variances.clamp(min=0).sqrt().float(),
        quaternion(axes).float(),
        mean(splats.opacities[:, None])[:, 0].float(),
        mean(splats.colors).float(),
    )
    alone = torch.bincount(cell)[cell] == 1
    several = torch.bincount(cell) > 1
    return GaussianSplats.cat([splats[alone], joined[several]])


def _footprint(splats: GaussianSplats) -> Float[Tensor, " n"]:
    """Return the opacity of each splat times its area, seen from its flat side."""
    largest = splats.scales.sort(dim=1, descending=True).values
    return splats.opacities * (largest[:, 0] * largest[:, 1]).clamp(min=1e-20)
