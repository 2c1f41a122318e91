"""PlayCanvas' `.compressed.ply`: a quarter of the PLY, 16 bytes a splat.

Splats stand in chunks of 256 neighbours. A chunk keeps the least and largest position, logarithm
of the scale, and colour; a splat where it lies between them (11 + 10 + 11 bits, colour 8 bits a
channel), its opacity (8 bits), and the three smaller components of its rotation (10 bits each).
Axes are those of the PLY. The layout is documented by the PlayCanvas user manual and the repository
playcanvas/splat-transform.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.files import write_aside
from zeronvs.cameras.conventions import WorldUp
from zeronvs.formats.ply import VERTICAL_AXIS
from zeronvs.formats.viewer_splats import morton_order, smallest_three, viewer_splats
from zeronvs.splats import GaussianSplats

_CHUNK = 256
_AXES = (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b"))
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def write_compressed_ply(path: Path, splats: GaussianSplats, *, up: WorldUp = "y-down") -> int:
    """Write splats, whole or not at all, and return how many were written.

    What is left out, and the errors, are those of `viewer_splats`.
    """
    splats = viewer_splats(splats, up)
    splats = splats[morton_order(splats.means)]
    limits, (position, scale, color) = zip(
        *(_chunked(part) for part in (splats.means, splats.scales.log(), splats.colors)),
        strict=True,
    )
    largest, others = smallest_three(splats.rotations)  # w x y z
    packed = np.stack(
        [
            _bits(position, (11, 10, 11)),
            _bits(others * 0.5**0.5 + 0.5, (10, 10, 10)) | (largest.numpy() << 30),
            _bits(scale, (11, 10, 11)),
            _bits(torch.cat([color, splats.opacities[:, None]], dim=1), (8, 8, 8, 8)),
        ],
        axis=1,
    )
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment Vertical Axis: {VERTICAL_AXIS[up]}"]
    header += [f"element chunk {len(limits[0])}"]
    header += [
        f"property float {end}_{n}" for axes in _AXES for end in ("min", "max") for n in axes
    ]
    header += [f"element vertex {len(splats)}", *(f"property uint {name}" for name in _PACKED)]
    with write_aside(path) as aside, aside.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
        file.write(torch.cat(limits, dim=1).numpy().astype("<f4").tobytes())
        file.write(packed.astype("<u4").tobytes())
    return len(splats)


def _chunked(
    values: Float[Tensor, "n 3"],
) -> tuple[
    Float[Tensor, "c 6"],  # least and largest of each chunk
    Float[Tensor, "n 3"],  # where each value lies between them, in [0, 1]
]:
    count = len(values)
    # The last splat fills up the last chunk, as it changes no limit.
    filled = torch.cat([values, values[-1:].expand(-count % _CHUNK, 3)]).view(-1, _CHUNK, 3)
    low, high = filled.amin(1), filled.amax(1)
    unit = (filled - low[:, None]) / (high - low).clamp(min=1e-12)[:, None]
    return torch.cat([low, high], dim=1), unit.reshape(-1, 3)[:count]


def _bits(unit: Float[Tensor, "n k"], bits: tuple[int, ...]) -> np.ndarray:
    """Pack values in [0, 1], the first in the highest bits."""
    packed = torch.zeros(len(unit), dtype=torch.int64)
    for column, width in zip(unit.unbind(-1), bits, strict=True):
        largest = 2**width - 1
        packed = packed << width | (column.clamp(0, 1) * largest).round().long()
    return packed.numpy()
