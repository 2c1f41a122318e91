"""Niantic's `.spz`, a tenth of the PLY: versions 3 (gzip) and 4 (zstd, by the extra `spz`).

The layout is documented by the README of the repository nianticlabs/spz. For each splat:

    position   3 x 24 bits    fixed point; `fraction` bits after the point stand in the header
    opacity    8 bits
    colour     3 x 8 bits     0.15 of the constant harmonic about the middle
    scale      3 x 8 bits     logarithm, sixteenths above -10
    rotation   32 bits        which of x y z w is the largest; sign and 9 bits of each other

Version 3 is one gzip stream with a header of 16 bytes, version 4 a header of 32 bytes, a table of
sizes and a zstd stream for each of these.

Axes: the specification says y up (RUB). But programs that convert a PLY keep its numbers
(splat-transform, and Niantic's own `ply_to_spz`), and SuperSplat expects those.
"""

import gzip
import math
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.files import write_bytes
from zeronvs._core.optional import require
from zeronvs.cameras.conventions import WorldUp
from zeronvs.formats.viewer_splats import harmonics, morton_order, smallest_three, viewer_splats
from zeronvs.splats import GaussianSplats

SpzVersion = Literal[3, 4]

_MAGIC = 0x5053474E
_COLOR_SCALE = 0.15
_LARGEST_FIXED = 2**23 - 1
_LARGEST_FRACTION = 20
_ZSTD_LEVEL = 12


def write_spz(
    path: Path, splats: GaussianSplats, *, version: SpzVersion = 3, up: WorldUp = "y-down"
) -> int:
    """Write splats, whole or not at all, and return how many were written.

    What is left out, and the errors, are those of `viewer_splats`.

    Args:
        path: Where to.
        splats: In our world.
        version: 3 is read by every program; 4 compresses a little better.
        up: World axes of the file; "y-up" is what the specification says.

    Raises:
        ImportError: Version 4 needs zstandard, which is not installed.
    """
    splats = viewer_splats(splats, up)
    splats = splats[morton_order(splats.means)]
    fraction = _fraction_bits(splats.means)
    streams = [
        _fixed_point(splats.means, fraction),
        _byte(splats.opacities * 255),
        _byte(harmonics(splats) * (_COLOR_SCALE * 255) + 0.5 * 255),
        _byte((splats.scales.log() + 10) * 16),
        _rotation(splats.rotations),
    ]
    header = struct.pack("<IIIBBB", _MAGIC, version, len(splats), 0, fraction, 0)
    if version == 3:
        # Without a time stamp, the same splats give the same bytes.
        content = gzip.compress(header + b"\0" + b"".join(streams), mtime=0)
    else:
        content = _version_4(header, streams)
    write_bytes(path, content)
    return len(splats)


def _version_4(header: bytes, streams: list[bytes]) -> bytes:
    compressor = require("zstandard", "spz").ZstdCompressor(level=_ZSTD_LEVEL)
    packed = [compressor.compress(stream) for stream in streams]
    sizes = [
        struct.pack("<QQ", len(small), len(whole))
        for small, whole in zip(packed, streams, strict=True)
    ]
    table_offset = 32
    header += struct.pack("<BI12x", len(streams), table_offset)
    return b"".join([header, *sizes, *packed])


def _fraction_bits(means: Float[Tensor, "n 3"]) -> int:
    """Return how many of the 24 bits can stand after the point."""
    largest = max(float(means.abs().max()), 1e-6)
    return max(0, min(_LARGEST_FRACTION, math.floor(math.log2(_LARGEST_FIXED / largest))))


def _fixed_point(means: Float[Tensor, "n 3"], fraction: int) -> bytes:
    steps = (means.double() * 2.0**fraction).round().clamp(-_LARGEST_FIXED, _LARGEST_FIXED)
    # The lower three of the four bytes of each number.
    return steps.numpy().astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes()


def _byte(values: Tensor) -> bytes:
    return values.round().clamp(0, 255).to(torch.uint8).numpy().tobytes()


def _rotation(rotations: Float[Tensor, "n 4"]) -> bytes:
    largest, others = smallest_three(rotations.roll(-1, dims=-1))  # x y z w
    size = (others.abs() * (511 * 2**0.5)).round().clamp(max=511).long()
    field = (others < 0).long() << 9 | size
    packed = largest << 30 | field[:, 0] << 20 | field[:, 1] << 10 | field[:, 2]
    return packed.numpy().astype(np.uint32).astype("<u4").tobytes()
