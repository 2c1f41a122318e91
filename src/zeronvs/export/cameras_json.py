"""Writing cameras beside their images, as nerfstudio's `transforms.json`."""

import os
from collections.abc import Sequence
from pathlib import Path

from zeronvs.cameras.camera import Camera
from zeronvs.formats import transforms_json as path_files


def write_transforms(path: Path, cameras: Camera, image_paths: Sequence[Path]) -> None:
    """Write cameras and the files of their images; a reader needs nothing else.

    Args:
        path: The JSON file; image paths are written relative to its folder, so that the whole run
            folder can be moved.
        cameras: One camera an image, with one leading axis.
        image_paths: Where the images lie.

    Raises:
        ValueError: There are not as many images as cameras.
    """
    if len(cameras) != len(image_paths):
        raise ValueError(f"{len(cameras)} cameras, but {len(image_paths)} images")
    folder = path.parent.resolve()
    relative = [os.path.relpath(image_path.resolve(), folder) for image_path in image_paths]
    path_files.write_transforms(path, cameras, [Path(name).as_posix() for name in relative])
