"""What all files of splats share: which splats are written, in which world, in which order."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from zeronvs._core.errors import HealthError
from zeronvs.cameras.conventions import WorldUp, world_axes
from zeronvs.splats import GaussianSplats

SH_C0 = 0.28209479177387814
"""Constant spherical harmonic, 1 / (2 sqrt(pi))."""
SMALLEST_OPACITY = 1.0 / 255.0
"""Fainter splats are not drawn, by the published code and by public viewers."""
SMALLEST_SCALE = 1e-12
"""Keeps the logarithm of a flat splat's scale finite, scene units."""
_MORTON_BITS = 21


def drawable(splats: GaussianSplats) -> GaussianSplats:
    """Leave out what cannot be drawn, and move the rest to the CPU."""
    splats = splats.detach().to("cpu")
    parts = [splats.means, splats.scales, splats.rotations, splats.colors]
    finite = torch.cat([*parts, splats.opacities[:, None]], dim=1).isfinite().all(dim=1)
    turns = splats.rotations.norm(dim=-1) > 0
    return splats[finite & turns & (splats.opacities >= SMALLEST_OPACITY)]


def viewer_splats(splats: GaussianSplats, up: WorldUp) -> GaussianSplats:
    """Return the splats that viewers can draw, on the CPU, in the world of a file.

    Splats with a number that is not finite, and those too faint to be drawn (opacity below 1/255),
    are left out; rotations become unit quaternions.

    Raises:
        HealthError: No splat is left to write.
    """
    splats = drawable(splats)
    if len(splats) == 0:
        raise HealthError(
            "No splat is visible, so there is nothing to write. Train longer, or extract the "
            "splats with cameras that face the scene."
        )
    splats = splats.moved(world_axes(up))
    return GaussianSplats(
        splats.means,
        splats.scales.clamp(min=SMALLEST_SCALE),
        torch.nn.functional.normalize(splats.rotations, dim=-1),
        splats.opacities,
        splats.colors,
    )


def harmonics(splats: GaussianSplats) -> Float[Tensor, "n 3"]:
    """Return the constant spherical harmonic of each colour, "f_dc" in PLY files."""
    return (splats.colors - 0.5) / SH_C0


def morton_order(points: Float[Tensor, "n 3"]) -> Int64[Tensor, " n"]:
    """Return an order in which neighbours in space are neighbours in the file (a Z curve)."""
    low, high = points.amin(0), points.amax(0)
    unit = (points - low).double() / (high - low).amax().clamp(min=SMALLEST_SCALE)
    code = torch.zeros(len(points), dtype=torch.int64)
    cell = (unit * (2**_MORTON_BITS - 1)).long()
    for bit in range(_MORTON_BITS):
        for axis in range(3):
            code |= (cell[:, axis] >> bit & 1) << (3 * bit + axis)
    return code.argsort(stable=True)


def smallest_three(
    rotations: Float[Tensor, "n 4"],
) -> tuple[
    Int64[Tensor, " n"],  # which component is the largest
    Float[Tensor, "n 3"],  # the others in order, the largest taken as positive
]:
    """Split unit quaternions for packing: the largest component follows from the others."""
    largest = rotations.abs().argmax(dim=-1)
    sign = torch.where(rotations.take_along_dim(largest[:, None], 1) < 0, -1.0, 1.0)
    others = torch.arange(4).expand(len(rotations), 4) != largest[:, None]
    return largest, (rotations * sign)[others].view(-1, 3)
