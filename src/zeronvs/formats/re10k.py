"""RealEstate10K's text files of cameras (also ACID's).

The first line is the address of a video, then follows a line a frame: time stamp in microseconds,
fx fy cx cy in units of the image's width and height, two zeros, and the 12 numbers of the 3x4
world-to-camera pose (OpenCV axes), row by row. Image sizes are not in the file.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_text, write_bytes
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import (
    camera_from_re10k,
    check_rigid,
    opencv_world_to_camera,
)

MAX_TEXT_BYTES = 32 * 2**20
WORDS = 19
_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Re10kClip:
    """The content of one file."""

    address: str
    """Address of the video; empty where the file has none."""
    timestamps_us: tuple[int, ...]
    table: Float[Tensor, "n 18"]
    """fx fy cx cy 0 0 and the 3x4 pose of each frame; damaged numbers may be NaN or infinite."""
    line_numbers: tuple[int, ...]
    """Line of each frame in the file, counted from 1."""


def read_re10k(path: Path) -> Re10kClip:
    """Read the cameras of one clip.

    Raises:
        InputError: The file cannot be read, or a line is not a camera.
    """
    return parse_re10k(read_text(path, max_bytes=MAX_TEXT_BYTES), path.name)


def parse_re10k(text: str, name: str) -> Re10kClip:
    """Read the cameras of one clip from its text.

    Raises:
        InputError: A line is not a camera, or there is none.
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words]
    address = ""
    if lines and len(lines[0][1]) == 1 and _number(lines[0][1][0]) is None:
        address = lines.pop(0)[1][0]
    if not lines:
        raise InputError(f"{name} has no frames, so it does not hold RealEstate10K cameras")
    rows, stamps = [], []
    for number, words in lines:
        row = [_number(word) for word in words]
        values = [value for value in row if value is not None]
        if len(words) != WORDS or len(values) != WORDS or not math.isfinite(values[0]):
            raise InputError(
                f"{name}, line {number}: it does not hold RealEstate10K cameras: a frame is "
                f"{WORDS} numbers, got {' '.join(words)[:60]!r} ({len(words)} words)"
            )
        stamps.append(int(values[0]))
        rows.append(values[1:])
    table = torch.tensor(rows, dtype=torch.float64)
    return Re10kClip(address, tuple(stamps), table, tuple(number for number, _ in lines))


def write_re10k(path: Path, cameras: Camera, *, frames_per_second: int = 24) -> None:
    """Write a batch of cameras as one clip, whole or not at all; image sizes are lost."""
    height_px, width_px = cameras.image_size_px
    size_px = torch.tensor([width_px, height_px], dtype=torch.float64)
    intrinsics_px = cameras.intrinsics_px.double().cpu()
    focal, centre = intrinsics_px[:, [0, 1], [0, 1]] / size_px, intrinsics_px[:, :2, 2] / size_px
    pose = opencv_world_to_camera(cameras.camera_to_world.double().cpu())[:, :3].flatten(1)
    rows = torch.cat([focal, centre, torch.zeros_like(centre), pose], dim=1).tolist()
    # The first line is the address of the clip's video: there is none.
    lines = ["zeronvs"]
    for index, row in enumerate(rows):
        stamp_us = round(index * 1e6 / frames_per_second)
        lines.append(" ".join([str(stamp_us), *(f"{value:.9f}" for value in row)]))
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def unit_cameras(table: Float[Tensor, "n 18"]) -> Camera:
    """Return cameras of the unit square from rows fx fy cx cy 0 0 and the 3x4 pose.

    A damaged pose becomes NaN: unusable but counted, so that the rest can be read.
    """
    pose = table[:, 6:].double().view(-1, 3, 4)
    finite = torch.isfinite(table).all(1)
    solvable = finite & (torch.linalg.det(pose[:, :, :3].nan_to_num()).abs() > 1e-6)
    safe = torch.where(solvable[:, None, None], pose, torch.eye(3, 4, dtype=pose.dtype))
    camera = camera_from_re10k(table[:, :4].double(), safe, (1, 1))
    matrix = camera.camera_to_world.clone()
    matrix[~solvable] = torch.nan
    return camera.with_poses(matrix).to(dtype=torch.float32)


def camera_path_from_re10k(text: str, name: str, image_size_px: tuple[int, int] | None) -> Camera:
    """Return the cameras of a clip as a path at an image size.

    The pixels of the video are square, which gives its aspect ratio: the vertical field of view is
    kept and the image cropped or widened at its sides.

    Raises:
        InputError: A line is not a camera, a pose is not rigid, or no image size is given.
    """
    clip = parse_re10k(text, name)
    world_to_camera = clip.table[:, 6:].view(-1, 3, 4)
    for number, row, pose in zip(clip.line_numbers, clip.table, world_to_camera, strict=True):
        if not bool(torch.isfinite(row).all()):
            raise InputError(f"{name}, line {number}: a frame is {WORDS} numbers, all finite")
        if float(row[:2].min()) <= 0:
            raise InputError(f"{name}, line {number}: the focal lengths should be above 0")
        check_rigid(pose, tolerance=_ROTATION_TOLERANCE, where=f"{name}, line {number}: ")
    if image_size_px is None:
        raise InputError(f"{name} is a RealEstate10K file, which has no image size; give one")
    camera = camera_from_re10k(clip.table[:, :4], world_to_camera, image_size_px)
    intrinsics_px = camera.intrinsics_px.clone()
    # Units of the width become units of the height: fx = fy, and cx keeps its distance to the
    # middle in the new unit.
    stretch = intrinsics_px[:, 1, 1] / intrinsics_px[:, 0, 0]
    middle_px = 0.5 * image_size_px[1]
    intrinsics_px[:, 0, 2] = middle_px + stretch * (intrinsics_px[:, 0, 2] - middle_px)
    intrinsics_px[:, 0, 0] = intrinsics_px[:, 1, 1]
    return camera.with_intrinsics(intrinsics_px).to(dtype=torch.float32)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
