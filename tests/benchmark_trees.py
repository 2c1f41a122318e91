"""Trees of DTU and Mip-NeRF 360 laid out as the public releases are, with procedural rooms."""

import math
from pathlib import Path

import numpy as np
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import opencv_world_to_camera, quaternion
from zeronvs.cameras.poses import look_at, orbit_pose
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import unproject
from zeronvs.datasets.procedural import ProceduralScene, drawn_texture, random_scene
from zeronvs.formats.images import write_image

ROOM_UNITS = 150.0
"""Units of the DTU world (millimetres) per unit of a room."""
DTU_DISTANCE = 2.4
"""Of the cameras from what they look at, in units of the room."""
CENTRE = torch.tensor([0.1, -0.2, 0.3])


def room(seed: int) -> ProceduralScene:
    generator = torch.Generator().manual_seed(seed)
    textures = torch.stack([drawn_texture(generator, 256) for _ in range(6)])
    scene = random_scene(generator, textures)
    # Walls farther away than any camera stands.
    half_size = scene.box_half_size.clone()
    half_size[0] = torch.tensor([5.0, 5.0, 2.5])
    center = scene.box_center.clone()
    center[0, 2] = 2.5
    return ProceduralScene(
        center, half_size, scene.box_yaw_rad, scene.ball_center, scene.ball_radius,
        scene.textures, scene.texture_size, scene.light,
    )  # fmt: skip


def walk(count: int, size_px: tuple[int, int]) -> list[View]:
    """Return the frames of a clip: a few steps aside in a room."""
    step = torch.arange(count)
    position = torch.stack([torch.ones(count), -0.2 + 0.04 * step, 0.1 + 0.02 * (step % 3)], -1)
    cameras, scene = Camera.from_fov(look_at(position), 0.9, size_px), room(3)
    return [scene.render(cameras[k]) for k in range(count)]


def dtu_cameras(count: int, size_px: tuple[int, int]) -> Camera:
    """Return cameras on a spherical cap; view 25 is near its middle."""
    column, row = torch.arange(count) % 7 - 4, torch.arange(count) // 7 - 3
    azimuth, elevation = 0.12 * column, 0.5 + 0.1 * row
    position = orbit_pose(azimuth, elevation, torch.full((count,), DTU_DISTANCE))[:, :3, 3]
    pose = look_at(CENTRE + position, CENTRE)
    return Camera.from_fov(pose, 2 * math.atan(619 / 2883), size_px)


def write_dtu_scan(
    folder: Path, seed: int, *, count: int = 49, calibrated: int = 1, size_px=(30, 40)
) -> None:
    """Write a scan as pixelNeRF's release has it.

    Args:
        calibrated: The cameras are for images so many times as large.
    """
    cameras, scene, arrays = dtu_cameras(count, size_px), room(seed), {}
    scale_mat = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0])).double()
    scale_mat[:3, :3] *= ROOM_UNITS * 1.5
    scale_mat[:3, 3] = ROOM_UNITS * CENTRE.double()
    for index in range(count):
        write_image(folder / "image" / f"{index:06d}.png", scene.render(cameras[index]).image)
        camera = cameras[index].resized(size_px[0] * calibrated, size_px[1] * calibrated)
        world_to_camera = opencv_world_to_camera(camera.camera_to_world.double())
        world_to_camera[:3, 3] *= ROOM_UNITS
        world_mat = torch.eye(4).double()
        world_mat[:3] = camera.intrinsics_px.double() @ world_to_camera[:3]
        arrays[f"world_mat_{index}"] = world_mat.numpy().astype(np.float32)
        arrays[f"scale_mat_{index}"] = scale_mat.numpy().astype(np.float32)
    np.savez(folder / "cameras.npz", **arrays)


def write_capture(folder: Path, seed: int, *, count: int = 9, size_px=(256, 320)) -> Camera:
    """Write a scene as Mip-NeRF 360 is released: a full-size model, images of an eighth."""
    angle = 2 * math.pi * torch.arange(count) / count
    distance = 1.3 + 0.15 * torch.sin(3 * angle)
    elevation = 0.45 + 0.08 * torch.cos(2 * angle)
    position = orbit_pose(angle, elevation, distance)[:, :3, 3]
    aside = 0.1 * torch.stack([torch.sin(5 * angle), torch.cos(5 * angle), 0 * angle], -1)
    cameras = Camera.from_fov(look_at(position, torch.tensor([0, 0, 0.2]) + aside), 0.9, size_px)
    scene = room(seed)
    full = cameras.resized(size_px[0] * 8, size_px[1] * 8)
    (fx, _, cx), (_, fy, cy), _ = full.intrinsics_px[0].tolist()
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    height, width = full.image_size_px
    (model / "cameras.txt").write_text(f"1 PINHOLE {width} {height} {fx} {fy} {cx} {cy}\n")
    lines, points = [], []
    random = np.random.default_rng(seed)
    for index in range(count):
        view = scene.render(cameras[index])
        name = f"DSC{index:05d}.JPG"
        write_image(folder / "images_8" / name, view.image)
        pose = opencv_world_to_camera(cameras.camera_to_world[index].double())
        numbers = [*quaternion(pose[:3, :3]).tolist(), *pose[:3, 3].tolist()]
        lines.append(" ".join(map(str, [index + 1, *numbers, 1, name])))
        seen = []
        for row, column in random.integers(0, size_px[0], (40, 2)):
            points.append(unproject(view)[row, column].tolist())
            seen.append(f"{8 * (column + 0.5)} {8 * (row + 0.5)} {len(points)}")
        lines.append(" ".join(seen))
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{k} {x} {y} {z} 128 128 128 0.5" for k, (x, y, z) in enumerate(points, 1)]
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")
    return cameras
