"""The standard PLY file of 3D Gaussian splats, as public viewers read it.

Binary little-endian, one vertex a splat, float32 properties named x y z nx ny nz f_dc_0..2
opacity scale_0..2 rot_0..3: opacity as a logit, scales as logarithms, rotations as quaternions
w x y z, colours as the constant spherical harmonic. We see no view dependence: the f_rest_0..44
between colour and opacity, three quarters of the file and all zero, are left out. Viewers read that
as degree 0, the published code with `--sh_degree 0`.

Axes: our world has z up. Viewers expect the world of COLMAP captures, where y points down, so by
default x, y, z is written as x, -z, y and converted back on reading; the axes are recorded in a
comment of the file.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import HealthError, InputError
from zeronvs._core.files import write_aside
from zeronvs.splats import GaussianSplats

Up = Literal["-y", "z"]
"""Up axis of the file: "-y" as viewers expect, or "z" as in our world."""

_SH_C0 = 0.28209479177387814  # constant spherical harmonic, 1 / (2 sqrt(pi))
_SMALLEST_OPACITY = 1.0 / 255.0
_LARGEST_LOGIT = 16.0
_UP_COMMENT = "Vertical Axis:"
_TURN_TO_VIEWERS = (0.5**0.5, 0.5**0.5, 0.0, 0.0)  # quaternion: 90 degrees about x
_NAMES = "char uchar short ushort int uint float double"
_SIZED_NAMES = "int8 uint8 int16 uint16 int32 uint32 float32 float64"
_LAYOUTS = "i1 u1 <i2 <u2 <i4 <u4 <f4 <f8"
_TYPES = {
    name: layout
    for names in (_NAMES, _SIZED_NAMES)
    for name, layout in zip(names.split(), _LAYOUTS.split(), strict=True)
}


def write_splat_ply(
    path: Path, splats: GaussianSplats, *, up: Up = "-y", sh_degree: int = 0
) -> int:
    """Write splats, whole or not at all, and return how many were written.

    Splats with a number that is not finite, and those too faint to be drawn (opacity below 1/255),
    are left out.

    Args:
        up: Axes of the file.
        sh_degree: Degree of the (zero) harmonics to write, 0 to 3; for readers that insist on 3.

    Raises:
        HealthError: No splat is left to write.
    """
    splats = drawable(splats)
    if len(splats) == 0:
        raise HealthError(
            "No splat is visible, so there is nothing to write. Train longer, or extract the "
            "splats with cameras that face the scene."
        )
    if up == "-y":
        splats = _turned(splats, _TURN_TO_VIEWERS)
    rest = 3 * ((sh_degree + 1) ** 2 - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{k}" for k in range(3))]
    names += [f"f_rest_{k}" for k in range(rest)]
    names += ["opacity", *(f"scale_{k}" for k in range(3)), *(f"rot_{k}" for k in range(4))]
    limit = torch.sigmoid(torch.tensor(_LARGEST_LOGIT, dtype=torch.float64)).item()
    columns = [
        splats.means,
        torch.zeros_like(splats.means),
        (splats.colors - 0.5) / _SH_C0,
        splats.means.new_zeros(len(splats), rest),
        splats.opacities.double().clamp(max=limit).logit()[:, None],
        splats.scales.clamp(min=1e-12).log(),
        torch.nn.functional.normalize(splats.rotations, dim=-1),
    ]
    body = torch.cat([column.float() for column in columns], dim=1).numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"comment {_UP_COMMENT} {up}"]
    header += [f"element vertex {len(splats)}", *(f"property float {name}" for name in names)]
    with write_aside(path) as aside, aside.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
        file.write(body.tobytes())
    return len(splats)


def read_splat_ply(path: Path, *, up: Up | None = None) -> GaussianSplats:
    """Read splats into our world; view dependence, if there is any, is ignored.

    Args:
        path: A file that we or others wrote.
        up: Up axis of the file; None: from its comment, else "-y".

    Raises:
        InputError: The file is missing, damaged, or holds no Gaussian splats.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    vertices, file_up = _parse(content, path)
    missing = [name for name in _needed_names() if name not in (vertices.dtype.names or ())]
    if missing:
        raise InputError(
            f"{path} is a PLY file without Gaussian splats: property {missing[0]} is missing. "
            "Pass a file in the layout of 3D Gaussian Splatting."
        )

    def columns(*names: str) -> Float[Tensor, "n columns"]:
        stacked = np.stack([vertices[name].astype(np.float32) for name in names], axis=1)
        return torch.from_numpy(stacked)

    splats = GaussianSplats(
        means=columns("x", "y", "z"),
        scales=columns("scale_0", "scale_1", "scale_2").exp(),
        rotations=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        opacities=columns("opacity")[:, 0].sigmoid(),
        colors=(columns("f_dc_0", "f_dc_1", "f_dc_2") * _SH_C0 + 0.5).clamp(0.0, 1.0),
    )
    if (up or file_up or "-y") == "-y":
        w, x, y, z = _TURN_TO_VIEWERS
        splats = _turned(splats, (w, -x, -y, -z))
    return splats


def drawable(splats: GaussianSplats) -> GaussianSplats:
    """Leave out what cannot be drawn, and move the rest to the CPU."""
    splats = splats.detach().to("cpu")
    parts = [splats.means, splats.scales, splats.rotations, splats.colors]
    finite = torch.cat([*parts, splats.opacities[:, None]], dim=1).isfinite().all(dim=1)
    turns = splats.rotations.norm(dim=-1) > 0
    return splats[finite & turns & (splats.opacities >= _SMALLEST_OPACITY)]


def _turned(splats: GaussianSplats, turn: tuple[float, float, float, float]) -> GaussianSplats:
    """Turn splats about the origin by a quaternion about the x axis (w, x, 0, 0)."""
    a, b = turn[0], turn[1]
    cosine, sine = a * a - b * b, 2.0 * a * b
    x, y, z = splats.means.unbind(-1)
    means = torch.stack([x, cosine * y - sine * z, sine * y + cosine * z], dim=-1)
    w, i, j, k = splats.rotations.unbind(-1)
    rotations = torch.stack([a * w - b * i, a * i + b * w, a * j - b * k, a * k + b * j], dim=-1)
    return GaussianSplats(means, splats.scales, rotations, splats.opacities, splats.colors)


def _needed_names() -> list[str]:
    """Return the properties that a splat file must have."""
    names = ["x", "y", "z", "opacity", "f_dc_0", "f_dc_1", "f_dc_2"]
    return names + [f"scale_{k}" for k in range(3)] + [f"rot_{k}" for k in range(4)]


def _parse(content: bytes, path: Path) -> tuple[np.ndarray, Up | None]:
    """Return the vertices as a structured array, and the up axis stated in the file."""
    end = content.find(b"end_header\n")
    if not content.startswith(b"ply") or end < 0:
        raise InputError(f"{path} is not a PLY file. Pass a .ply file of Gaussian splats.")
    up: Up | None = None
    count, properties, in_vertex = 0, [], False
    for line in content[:end].decode("ascii", errors="replace").splitlines()[1:]:
        match line.split():
            case ["format", kind, _] if kind != "binary_little_endian":
                raise InputError(
                    f"{path} is a PLY file of format {kind}; only binary_little_endian"
                    " is read. Convert it, for instance with SuperSplat."
                )
            case ["comment", *words] if " ".join(words).startswith(_UP_COMMENT):
                up = "z" if words[-1] == "z" else "-y"
            case ["element", name, number] if number.isdigit():
                in_vertex = name == "vertex"
                if not in_vertex and not properties:
                    raise InputError(
                        f"{path} starts with {name!r} instead of vertices. "
                        "Pass a .ply file of Gaussian splats."
                    )
                count = int(number) if in_vertex else count
            case ["property", kind, name] if in_vertex and kind in _TYPES:
                properties.append((name, _TYPES[kind]))
            case ["property", *_] if in_vertex:
                raise InputError(
                    f"{path} has a vertex property that is not a number: {line!r}. "
                    "Pass a .ply file of Gaussian splats."
                )
    layout = np.dtype(properties)
    body = content[end + len(b"end_header\n") :]
    if len(body) < count * layout.itemsize:
        raise InputError(
            f"{path} is cut off: {count} splats were announced, "
            f"{len(body) // max(layout.itemsize, 1)} are there. Copy or download it again."
        )
    return np.frombuffer(body, dtype=layout, count=count), up
