"""A renderer of .glb files that knows nothing of how they are written: a z-buffer in numpy."""

from pathlib import Path

import numpy as np
import torch
import trimesh

from zeronvs.cameras.camera import Camera


def render_glb(path: Path, camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what one camera sees of a file, and the depth of it (infinite where nothing is)."""
    height, width = camera.image_size_px
    image, depth = np.zeros((height, width, 3)), np.full((height, width), np.inf)
    world_to_camera = torch.linalg.inv(camera.camera_to_world.double()).numpy()
    (fx, _, cx), (_, fy, cy), _ = camera.intrinsics_px.double().numpy()
    for part in trimesh.load_scene(path).geometry.values():
        points = np.asarray(part.vertices)
        # glTF has y up; our world z.
        world = np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=-1)
        x, y, z = (world @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]).T
        projected = np.stack([cx - fx * x / z, cy + fy * y / z, -z], axis=-1)
        texture = np.asarray(part.visual.material.baseColorTexture) / 255
        uv = np.asarray(part.visual.uv)  # trimesh has v run up
        for face in part.faces:
            draw(projected[face], uv[face], texture, image, depth)
    return torch.tensor(image).permute(2, 0, 1).float(), torch.tensor(depth).float()


def draw(corners, uv, texture, image, depth) -> None:
    """Draw one triangle: columns, rows and depths of its corners, and their places in a texture."""
    height, width = depth.shape
    if (corners[:, 2] < 1e-3).any():
        return
    low = np.maximum(np.ceil(corners[:, :2].min(0) - 0.5), 0).astype(int)
    high = np.minimum(np.floor(corners[:, :2].max(0) - 0.5), [width - 1, height - 1]).astype(int)
    if (low > high).any():
        return
    column, row = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
    (ax, ay), (bx, by), (px, py) = corners[:, :2]
    area = (bx - ax) * (py - ay) - (px - ax) * (by - ay)
    if abs(area) < 1e-12:
        return
    x, y = column + 0.5, row + 0.5
    second = ((x - ax) * (py - ay) - (px - ax) * (y - ay)) / area
    third = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / area
    weight = np.stack([1 - second - third, second, third], axis=-1)
    inverse = weight / corners[:, 2]
    z = 1 / inverse.sum(-1)
    inside = (weight >= -1e-9).all(-1) & (z < depth[row, column])
    u, v = np.moveaxis((inverse * z[..., None]) @ uv, -1, 0)
    rows, columns = texture.shape[:2]
    texel = texture[
        np.clip((1 - v) * rows, 0, rows - 1).astype(int),
        np.clip(u * columns, 0, columns - 1).astype(int),
    ]
    depth[row[inside], column[inside]] = z[inside]
    image[row[inside], column[inside]] = texel[inside][:, :3]
