"""Gaussian splats as a binary glTF 2.0 file (.glb) with the extension KHR_gaussian_splatting.

The extension (README in the repository KhronosGroup/glTF, extensions/2.0/Khronos) wants scales and
opacities as they are, not their logarithms, quaternions x y z w, and colours as the constant
spherical harmonic of sRGB. Programs without the extension show points in COLOR_0, whose values are
linear. glTF wants y up: our x, y, z is written as x, z, -y, as in the file of the mesh.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.formats.glb import FLOAT, UNSIGNED_SHORT, GlbBuffer, write_container
from zeronvs.formats.viewer_splats import harmonics, viewer_splats
from zeronvs.splats import GaussianSplats

EXTENSION = "KHR_gaussian_splatting"
_POINTS = 0


def write_splat_glb(path: Path, splats: GaussianSplats) -> int:
    """Write splats, whole or not at all, and return how many were written.

    What is left out, and the errors, are those of `viewer_splats`.
    """
    splats = viewer_splats(splats, "y-up")
    opacities = splats.opacities.clamp(0, 1)
    file = GlbBuffer()
    # 16 bits: eight are too few for dark linear values.
    shown = torch.cat([linear_from_srgb(splats.colors.clamp(0, 1)), opacities[:, None]], dim=1)
    fallback = (shown * 65535).round().numpy().astype("<u2")
    attributes = {
        "POSITION": file.add_positions(splats.means.numpy()),
        "COLOR_0": file.add(fallback, "VEC4", UNSIGNED_SHORT, normalized=True),
        f"{EXTENSION}:ROTATION": _floats(file, splats.rotations.roll(-1, dims=-1), "VEC4"),
        f"{EXTENSION}:SCALE": _floats(file, splats.scales, "VEC3"),
        f"{EXTENSION}:OPACITY": _floats(file, opacities, "SCALAR"),
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": _floats(file, harmonics(splats), "VEC3"),
    }
    kind = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    primitive = {"attributes": attributes, "mode": _POINTS, "extensions": {EXTENSION: kind}}
    tree = {
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "scene"}],
        "meshes": [{"primitives": [primitive]}],
    }
    write_container(path, tree, file)
    return len(splats)


def linear_from_srgb(color: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Undo the transfer function of sRGB (IEC 61966-2-1)."""
    return torch.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def _floats(file: GlbBuffer, values: Tensor, kind: str) -> int:
    return file.add(values.numpy().astype(np.dtype("<f4")), kind, FLOAT)
