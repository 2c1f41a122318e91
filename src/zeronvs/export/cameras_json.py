"""Writing cameras as nerfstudio's `transforms.json`: OpenGL axes, camera-to-world, pixels."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zeronvs._core.files import write_json
from zeronvs.cameras.camera import Camera


def write_transforms(path: Path, cameras: Camera, image_paths: Sequence[Path]) -> None:
    """Write cameras and the files of their images; a reader needs nothing else.

    Args:
        path: The JSON file; image paths are written relative to its folder.
        cameras: One camera an image, with one leading axis.
        image_paths: Where the images lie.

    Raises:
        ValueError: There are not as many images as cameras.
    """
    write_json(path, transforms(cameras, image_paths, folder=path.parent))


def transforms(cameras: Camera, image_paths: Sequence[Path], *, folder: Path) -> dict[str, Any]:
    """Return the content of a `transforms.json` that lies in `folder`."""
    if len(cameras) != len(image_paths):
        raise ValueError(f"{len(cameras)} cameras, but {len(image_paths)} images")
    height_px, width_px = cameras.image_size_px
    poses = cameras.camera_to_world.detach().double().cpu()
    intrinsics_px = cameras.intrinsics_px.detach().double().cpu()
    frames = [
        {
            "file_path": _relative(image_path, folder),
            "fl_x": float(matrix[0, 0]),
            "fl_y": float(matrix[1, 1]),
            "cx": float(matrix[0, 2]),
            "cy": float(matrix[1, 2]),
            "w": width_px,
            "h": height_px,
            "transform_matrix": pose.tolist(),
        }
        for image_path, pose, matrix in zip(image_paths, poses, intrinsics_px, strict=True)
    ]
    shared = (
        {key: frames[0][key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")} if frames else {}
    )
    return {"camera_model": "OPENCV", **shared, "frames": frames}


def _relative(path: Path, folder: Path) -> str:
    """Return the path from the folder, with forward slashes, also where it leads upwards."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
