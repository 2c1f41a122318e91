"""DTU as pixelNeRF and IDR publish it: `scan<N>/image/*.png` and `scan<N>/cameras.npz`.

The images may also lie in `images`, or be those of DTU's own `Rectified` folder
(`rect_<view>_3_r5000.png`, one light) beside a cameras.npz. They may have any size: the principal
point tells for which size the cameras are. As in the published code, the field of view is read from
the principal point, which is then taken to be the centre.
"""

import math
from pathlib import Path

import numpy as np
import torch

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import camera_from_dtu, check_rigid
from zeronvs.cameras.view import View, resize_image
from zeronvs.datasets.sources.scene_source import find_scene_folders, read_image
from zeronvs.datasets.triangulate import triangulate
from zeronvs.evaluation.protocols.protocol import (
    BenchmarkScene,
    Protocol,
    focus_point,
    spread_evenly,
)
from zeronvs.formats.images import from_bytes
from zeronvs.formats.video import to_bytes

IMAGE_FOLDERS = ("image", "images", ".")
NEAR_VIEWS = 13
"""The input and its neighbours, from which its sparse depth is triangulated."""
MAX_CAMERAS_BYTES = 64 * 2**20


def find_scans(root: Path) -> dict[str, Path]:
    """Return the folders of scans by name (`scan8`).

    Raises:
        InputError: There is none.
    """
    found = find_scene_folders(
        root, lambda folder: (folder / "cameras.npz").is_file(), what="cameras.npz and image/"
    )
    return {path.name.removeprefix("dtu_"): path for path in found.values()}


def read_scan(
    folder: Path, name: str, protocol: Protocol, *, limit: int | None = None
) -> BenchmarkScene:
    """Read a scan.

    Args:
        folder: The scan's own folder.
        name: Its name in the protocol.
        protocol: That of DTU.
        limit: At most so many targets, spread evenly; None: all.

    Raises:
        InputError: An image or a camera is missing or damaged.
    """
    settings = protocol.settings
    images = _images(folder)[: settings["views"]]
    input_view, excluded = settings["input_view"], settings["excluded_views"]
    if len(images) <= input_view:
        raise InputError(f"{folder} has {len(images)} images; the input is view {input_view}")
    cameras = [
        _camera(folder / "cameras.npz", index, settings["unit"], protocol.image_size_px)
        for index in range(len(images))
    ]
    targets = [k for k in range(len(images)) if k != input_view and k not in excluded]
    targets = spread_evenly(targets, limit)
    poses = torch.stack([camera.camera_to_world for camera in cameras])
    # All views may tell the depth of the input, those too that are not measured.
    distance = (poses[:, :3, 3] - poses[input_view, :3, 3]).norm(dim=-1)
    near = sorted(distance.argsort()[:NEAR_VIEWS].tolist())
    pixels = {k: _pixels(images[k], protocol.image_size_px) for k in {input_view, *targets, *near}}
    views = {k: View(image, _centred(cameras[k])) for k, image in pixels.items()}
    depth_z = triangulate(
        lambda place: to_bytes(pixels[near[place]]).permute(1, 2, 0).numpy(),
        [cameras[k].to(dtype=torch.float32) for k in near],
        only=[near.index(input_view)],
    )[0]
    return BenchmarkScene(
        name=name,
        input_view=views[input_view],
        targets=View.stack([views[k] for k in targets]),
        target_names=tuple(images[k].name for k in targets),
        elevation_rad=math.radians(settings["elevation_deg"]),
        content_scale=settings["content_scale"],
        published_scale=protocol.scenes[name]["scale"],
        focus_distance=float((poses[input_view, :3, 3] - focus_point(poses)).norm()),
        known_depth_z=torch.from_numpy(depth_z),
    )


def _images(folder: Path) -> list[Path]:
    """Return the images of a scan in the order of their views."""
    for name in IMAGE_FOLDERS:
        if not (folder / name).is_dir():
            continue
        paths = [p for p in (folder / name).iterdir() if p.suffix.lower() in (".png", ".jpg")]
        rectified = [p for p in paths if p.name.startswith("rect_")]
        # Light 3 of seven is the one that pixelNeRF's release shows.
        paths = [p for p in rectified if "_3_r" in p.name] if rectified else paths
        if paths:
            return sorted(paths)
    raise InputError(f"{folder} has no images: they belong in its folder image")


def _camera(path: Path, index: int, unit: float, size_px: tuple[int, int]) -> Camera:
    """Return a camera in the published unit, for images of this size, in float64."""
    if path.stat().st_size > MAX_CAMERAS_BYTES:
        raise InputError(f"{path} is larger than {MAX_CAMERAS_BYTES >> 20} MiB")
    with ReadingErrors(f"{path} has no camera {index}"), np.load(path, allow_pickle=False) as held:
        world, scale = (
            torch.from_numpy(held[f"{kind}_mat_{index}"].astype(np.float64).reshape(4, 4))
            for kind in ("world", "scale")
        )
        camera = camera_from_dtu(world, scale, size_px)
        check_rigid(camera.camera_to_world, tolerance=1e-3)
        pose = camera.camera_to_world.clone()
        pose[:3, 3] /= unit
        # The principal point is close to the middle: which multiple of this size it is the middle
        # of tells the size of the images that were calibrated.
        height_px, width_px = size_px
        factor = float(camera.intrinsics_px[0, 2]) * 2 / width_px
        nearest = round(factor) if factor > 1 else 1 / round(1 / factor)
        if abs(factor / nearest - 1) > 0.2:
            raise InputError(
                f"{path} is for images some {factor * width_px:.0f} px wide, which is no multiple "
                f"of {width_px}: crops of DTU have other cameras than its images"
            )
        stored_px = (round(height_px * nearest), round(width_px * nearest))
        return Camera(pose, camera.intrinsics_px, stored_px).resized(*size_px)


def _centred(camera: Camera) -> Camera:
    """Return the camera with the field of view as published, about the middle of the image."""
    focal_px, centre_px = float(camera.intrinsics_px[1, 1]), float(camera.intrinsics_px[1, 2])
    fov_y_rad = 2 * math.atan2(centre_px, focal_px)
    return Camera.from_fov(camera.camera_to_world.float(), fov_y_rad, camera.image_size_px)


def _pixels(path: Path, size_px: tuple[int, int]) -> torch.Tensor:
    image = from_bytes(read_image(path, path.name))
    return resize_image(image, size_px, "bilinear")
