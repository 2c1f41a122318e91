"""The standard PLY file of 3D Gaussian splats, as public viewers read it.

Binary little-endian, one vertex a splat, float32 properties named x y z nx ny nz f_dc_0..2
opacity scale_0..2 rot_0..3: opacity as a logit, scales as logarithms, rotations as quaternions
w x y z, colours as the constant spherical harmonic. We see no view dependence: the f_rest_0..44
between colour and opacity, three quarters of the file and all zero, are left out. Viewers read that
as degree 0, the published code with `--sh_degree 0`.

Axes: our world has z up. Viewers expect the world of COLMAP captures, where y points down, so that
x, y, z is written as x, -z, y; a comment of the file records its vertical axis.
"""

from pathlib import Path

import torch

from zeronvs._core.errors import HealthError
from zeronvs._core.files import write_aside
from zeronvs.splats import GaussianSplats

_SH_C0 = 0.28209479177387814  # constant spherical harmonic, 1 / (2 sqrt(pi))
_SMALLEST_OPACITY = 1.0 / 255.0
_LARGEST_LOGIT = 16.0


def write_splat_ply(path: Path, splats: GaussianSplats) -> int:
    """Write splats, whole or not at all, and return how many were written.

    Splats with a number that is not finite, and those too faint to be drawn (opacity below 1/255),
    are left out.

    Raises:
        HealthError: No splat is left to write.
    """
    splats = drawable(splats)
    if len(splats) == 0:
        raise HealthError(
            "No splat is visible, so there is nothing to write. Train longer, or extract the "
            "splats with cameras that face the scene."
        )
    splats = _to_viewers(splats)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{k}" for k in range(3))]
    names += ["opacity", *(f"scale_{k}" for k in range(3)), *(f"rot_{k}" for k in range(4))]
    limit = torch.sigmoid(torch.tensor(_LARGEST_LOGIT, dtype=torch.float64)).item()
    columns = [
        splats.means,
        torch.zeros_like(splats.means),
        (splats.colors - 0.5) / _SH_C0,
        splats.opacities.double().clamp(max=limit).logit()[:, None],
        splats.scales.clamp(min=1e-12).log(),
        torch.nn.functional.normalize(splats.rotations, dim=-1),
    ]
    body = torch.cat([column.float() for column in columns], dim=1).numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", "comment Vertical Axis: -y"]
    header += [f"element vertex {len(splats)}", *(f"property float {name}" for name in names)]
    with write_aside(path) as aside, aside.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
        file.write(body.tobytes())
    return len(splats)


def drawable(splats: GaussianSplats) -> GaussianSplats:
    """Leave out what cannot be drawn, and move the rest to the CPU."""
    splats = splats.detach().to("cpu")
    parts = [splats.means, splats.scales, splats.rotations, splats.colors]
    finite = torch.cat([*parts, splats.opacities[:, None]], dim=1).isfinite().all(dim=1)
    turns = splats.rotations.norm(dim=-1) > 0
    return splats[finite & turns & (splats.opacities >= _SMALLEST_OPACITY)]


def _to_viewers(splats: GaussianSplats) -> GaussianSplats:
    """Turn splats by 90 degrees about x: z up becomes y down."""
    x, y, z = splats.means.unbind(-1)
    means = torch.stack([x, -z, y], dim=-1)
    # The product of quaternions (a, a, 0, 0) (w, i, j, k), a = 1 / sqrt(2).
    w, i, j, k = (0.5**0.5 * splats.rotations).unbind(-1)
    rotations = torch.stack([w - i, i + w, j - k, k + j], dim=-1)
    return GaussianSplats(means, splats.scales, rotations, splats.opacities, splats.colors)
