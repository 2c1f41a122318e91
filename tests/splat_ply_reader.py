"""A reader of splat files as public viewers decode them, for what the package writes."""

from pathlib import Path

import numpy as np
import torch

from zeronvs.splats import GaussianSplats

HARMONIC = 0.28209479177387814


def ply_columns(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the float32 columns of the file by name, and the names in order."""
    content = path.read_bytes()
    header, body = content.split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    count = int(next(line for line in lines if line.startswith("element vertex ")).split()[-1])
    values = torch.from_numpy(np.frombuffer(body, "<f4").reshape(count, len(names)).copy())
    return dict(zip(names, values.T, strict=True)), names


def read_splats(path: Path, *, up: str = "-y") -> GaussianSplats:
    """Return the splats in our world; with `up="z"`, as they stand in the file."""
    column, _ = ply_columns(path)

    def columns(*names: str) -> torch.Tensor:
        return torch.stack([column[name] for name in names], dim=-1)

    means = columns("x", "y", "z")
    w, i, j, k = columns("rot_0", "rot_1", "rot_2", "rot_3").unbind(-1)
    rotations = torch.stack([w, i, j, k], dim=-1)
    if up == "-y":
        # x, -z, y was written for x, y, z: turned by 90 degrees about x, and back here. The
        # quaternion (1, -1, 0, 0) / sqrt(2) times (w, i, j, k); its length does not matter.
        means = torch.stack([means[:, 0], means[:, 2], -means[:, 1]], dim=-1)
        rotations = torch.stack([w + i, i - w, j + k, k - j], dim=-1)
    return GaussianSplats(
        means=means,
        scales=columns("scale_0", "scale_1", "scale_2").exp(),
        rotations=rotations,
        opacities=column["opacity"].sigmoid(),
        colors=(columns("f_dc_0", "f_dc_1", "f_dc_2") * HARMONIC + 0.5).clamp(0, 1),
    )
