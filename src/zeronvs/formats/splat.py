"""The `.splat` file of antimatter15's web viewer: 32 bytes a splat, no header.

Position and scales are float32, colour and opacity bytes, the rotation four bytes w x y z as
128 (q + 1). Axes are those of the PLY. The layout is documented by the repository
antimatter15/splat (`convert.py`).
"""

from pathlib import Path

import numpy as np

from zeronvs._core.files import write_bytes
from zeronvs.cameras.conventions import WorldUp
from zeronvs.formats.viewer_splats import viewer_splats
from zeronvs.splats import GaussianSplats

_RECORD = [("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)]


def write_splat(path: Path, splats: GaussianSplats, *, up: WorldUp = "y-down") -> int:
    """Write splats, whole or not at all, and return how many were written.

    The largest and most opaque come first: viewers draw a file while it loads.
    What is left out, and the errors, are those of `viewer_splats`.
    """
    splats = viewer_splats(splats, up)
    splats = splats[(splats.scales.prod(dim=-1) * splats.opacities).argsort(descending=True)]
    rows = np.empty(len(splats), dtype=_RECORD)
    rows["position"] = splats.means.numpy()
    rows["scale"] = splats.scales.numpy()
    rows["rgba"][:, :3] = (splats.colors.clamp(0, 1) * 255).round().numpy()
    rows["rgba"][:, 3] = (splats.opacities.clamp(0, 1) * 255).round().numpy()
    rows["rotation"] = (128 * splats.rotations + 128).round().clamp(0, 255).numpy()
    write_bytes(path, rows.tobytes())
    return len(splats)
