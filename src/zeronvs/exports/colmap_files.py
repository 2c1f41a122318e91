"""A scene as a COLMAP data set: images, cameras, and points to start from."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import WorldUp, opencv_world_to_camera, quaternion, world_axes
from zeronvs.exports.splat_files import solid_points
from zeronvs.formats.colmap import ColmapCamera, ColmapImage, write_model
from zeronvs.formats.images import write_image
from zeronvs.formats.video import to_bytes
from zeronvs.splats import GaussianSplats

MAX_POINTS = 100_000
"""Points that a program which trains splats starts from, at most."""


def write_colmap(
    folder: Path,
    images: Float[Tensor, "n 3 h w"],
    cameras: Camera,
    splats: GaussianSplats,
    *,
    up: WorldUp = "y-down",
) -> Path:
    """Write images/ and sparse/0 (text and binary) of a folder; return sparse/0.

    The world is that of the splat files, so that a program with both shows them in one place.

    Args:
        folder: Where to.
        images: One for each camera.
        cameras: In our world.
        splats: Their centres are the points.
        up: World axes.
    """
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = world_axes(up)
    pose = opencv_world_to_camera(turn @ cameras.camera_to_world.double().cpu())
    lenses = cameras.intrinsics_px.double().cpu()
    distinct, which = lenses.flatten(1).unique(dim=0, return_inverse=True)
    height_px, width_px = cameras.image_size_px
    pinholes = {
        index: ColmapCamera("PINHOLE", width_px, height_px, (row[0], row[4], row[2], row[5]))
        for index, row in enumerate(distinct.tolist(), 1)
    }
    posed = []
    for index, image in enumerate(images):
        name = f"{index:03d}.png"
        write_image(folder / "images" / name, image)
        qvec, tvec = quaternion(pose[index, :3, :3]).tolist(), pose[index, :3, 3].tolist()
        none = np.zeros(0, dtype=np.int64)
        posed.append(ColmapImage(name, int(which[index]) + 1, tuple(qvec), tuple(tvec), none))
    points = solid_points(splats)
    points = points[:: -(-len(points) // MAX_POINTS) or 1]
    positions = (points.means @ world_axes(up).mT).double().numpy()
    colors = to_bytes(points.colors[:, :, None, None])[:, :, 0, 0].numpy()
    write_model(folder / "sparse" / "0", pinholes, posed, positions, colors)
    return folder / "sparse" / "0"
