"""A camera path, by its name or by its file; writing one."""

import math
from pathlib import Path

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_json
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.trajectories import TRAJECTORIES


def path_file(path: str) -> Path | None:
    """Return the file that a camera path is read from; None for a name of `TRAJECTORIES`.

    Raises:
        InputError: There is no such name and no such file.
    """
    if path in TRAJECTORIES:
        return None
    if not Path(path).exists():
        raise InputError(
            f"{path!r} is neither a named path nor a file; the named paths are "
            f"{', '.join(TRAJECTORIES)}",
            argument="path",
        )
    return Path(path)


def write_camera_path(path: Path, cameras: Camera, *, frames_per_second: int = 24) -> None:
    """Write a batch of cameras as nerfstudio's `camera_path.json`; `read_camera_path` reads it."""
    height_px, width_px = cameras.image_size_px
    frames = [
        {
            "camera_to_world": [value for row in pose for value in row],
            "fov": math.degrees(fov_y_rad),
            "aspect": width_px / height_px,
        }
        for pose, fov_y_rad in zip(
            cameras.camera_to_world.tolist(), cameras.fov_y_rad.tolist(), strict=True
        )
    ]
    content = {
        "camera_type": "perspective",
        "render_height": height_px,
        "render_width": width_px,
        "fps": frames_per_second,
        "seconds": len(frames) / frames_per_second,
        "camera_path": frames,
    }
    write_json(path, content)
