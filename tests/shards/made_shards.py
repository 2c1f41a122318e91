"""Small shards for tests: smooth pictures, exact cameras, in any of the forms that exist."""

from pathlib import Path

import numpy as np
import torch
from foreign_cameras import pytorch3d_numbers

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.shards.writer import ShardScene, ShardWriter, encode_frame

SIZE = (256, 300)


def picture(seed: int, size=SIZE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (5, 5, 3))
    rows = np.linspace(0, 3.99, size[0])
    columns = np.linspace(0, 3.99, size[1])
    return coarse[rows.astype(int)][:, columns.astype(int)].astype(np.uint8)


def camera(index: int, size=SIZE, step_rad=0.1) -> Camera:
    angle = torch.tensor(step_rad * index, dtype=torch.float64)
    elevation, distance = torch.full_like(angle, 0.3), torch.full_like(angle, 2.0)
    return Camera.from_fov(orbit_pose(angle, elevation, distance), 0.8, size)


def depth_map(seed: int, size=SIZE, share=0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    known = rng.random(size) < share
    return np.where(known, rng.uniform(1, 4, size), 0).astype(np.float32)


def made_scene(scene_id: str, frames: int = 4, *, size=SIZE, **options) -> ShardScene:
    seed = sum(scene_id.encode())
    made = [
        encode_frame(
            picture(seed + k, size),
            camera(k, size),
            depth_map(seed + k, size),
            name=f"frame{k + 1:06d}",
            **options,
        )
        for k in range(frames)
    ]
    return ShardScene(scene_id, tuple(made))


def write_shards(folder: Path, scenes: list[ShardScene], per_shard: int = 2) -> list[Path]:
    with ShardWriter(folder, "made", max_scenes_per_shard=per_shard) as writer:
        for scene in scenes:
            writer.add(scene)
    return sorted(folder.glob("*.tar"))


def simple_shards(folder: Path, scenes: int, frames: int = 4, per_shard: int = 2) -> list[Path]:
    made = [made_scene(f"room/scene{k:03d}", frames) for k in range(scenes)]
    return write_shards(folder, made, per_shard)


def co3d_metadata(camera: Camera, scale_adjustment: float) -> dict:
    rotation, translation, focal, principal = pytorch3d_numbers(camera, "image_bounds")
    return {
        "R": rotation.tolist(),
        "T": translation.tolist(),
        "focal_length": focal.tolist(),
        "principal_point": (principal + 0.0).tolist(),
        "scale_adjustment": scale_adjustment,
    }
