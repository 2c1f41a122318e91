"""PLY files: 3D Gaussian splats as public viewers read them, and plain coloured points.

Splats are binary little-endian, one vertex a splat, float32 properties named x y z nx ny nz
f_dc_0..2 opacity scale_0..2 rot_0..3: opacity as a logit, scales as logarithms, rotations as
quaternions w x y z, colours as the constant spherical harmonic. We see no view dependence: the
f_rest_0..44 between colour and opacity, three quarters of the file and all zero, are left out.
Viewers read that as degree 0, the published code with `--sh_degree 0`.

Axes: our world has z up. Viewers expect the world of COLMAP captures, where y points down, so that
x, y, z is written as x, -z, y; a comment of the file records its vertical axis.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.files import write_aside
from zeronvs.cameras.conventions import WorldUp, world_axes
from zeronvs.formats.video import to_bytes
from zeronvs.formats.viewer_splats import harmonics, viewer_splats
from zeronvs.splats import GaussianSplats

_LARGEST_LOGIT = 16.0
VERTICAL_AXIS: dict[WorldUp, str] = {"y-down": "-y", "y-up": "y", "z-up": "z"}
"""How the comment of a file names its vertical axis."""


def write_splat_ply(path: Path, splats: GaussianSplats, *, up: WorldUp = "y-down") -> int:
    """Write splats, whole or not at all, and return how many were written.

    What is left out, and the errors, are those of `viewer_splats`.
    """
    splats = viewer_splats(splats, up)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{k}" for k in range(3))]
    names += ["opacity", *(f"scale_{k}" for k in range(3)), *(f"rot_{k}" for k in range(4))]
    limit = torch.sigmoid(torch.tensor(_LARGEST_LOGIT, dtype=torch.float64)).item()
    columns = [
        splats.means,
        torch.zeros_like(splats.means),
        harmonics(splats),
        splats.opacities.double().clamp(max=limit).logit()[:, None],
        splats.scales.log(),
        splats.rotations,
    ]
    body = torch.cat([column.float() for column in columns], dim=1).numpy().astype("<f4")
    _write(path, len(splats), [f"float {name}" for name in names], body, up)
    return len(splats)


def write_point_ply(
    path: Path,
    points: Float[Tensor, "n 3"],
    colors: Float[Tensor, "n 3"],
    *,
    up: WorldUp = "y-down",
) -> None:
    """Write coloured points (x y z as float32, red green blue as bytes), whole or not at all.

    Args:
        points: World coordinates, scene units.
        colors: sRGB in [0, 1].
        up: World axes of the file.
    """
    rows = np.empty(len(points), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"] = (points.detach().cpu() @ world_axes(up).mT).numpy()
    rows["rgb"] = to_bytes(colors[:, :, None, None])[:, :, 0, 0].numpy()
    names = ["float x", "float y", "float z", "uchar red", "uchar green", "uchar blue"]
    _write(path, len(points), names, rows, up)


def _write(path: Path, count: int, names: list[str], body: np.ndarray, up: WorldUp) -> None:
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment Vertical Axis: {VERTICAL_AXIS[up]}", f"element vertex {count}"]
    header += [*(f"property {name}" for name in names), "end_header"]
    with write_aside(path) as aside, aside.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        file.write(body.tobytes())
