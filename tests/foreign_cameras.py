"""Our cameras in the conventions of other tools: twins of what `cameras.conventions` reads."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from zeronvs.cameras.camera import Camera


def opencv_pose(camera_to_world: torch.Tensor) -> torch.Tensor:
    """Return camera-to-world poses with y down and z forward."""
    pose = camera_to_world.clone()
    pose[..., :3, 1:3] *= -1
    return pose


def colmap_pose(camera_to_world: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the world-to-camera quaternions (w, x, y, z) and translations of COLMAP."""
    world_to_camera = np.linalg.inv(opencv_pose(camera_to_world).numpy())
    x, y, z, w = np.moveaxis(Rotation.from_matrix(world_to_camera[..., :3, :3]).as_quat(), -1, 0)
    qvec = torch.from_numpy(np.stack([w, x, y, z], axis=-1))
    return qvec, torch.from_numpy(world_to_camera[..., :3, 3])


def re10k_numbers(camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Return fx, fy, cx, cy as shares of the image, and the 3x4 world-to-camera poses."""
    height_px, width_px = camera.image_size_px
    matrix = camera.intrinsics_px
    across, down = matrix[..., 0, :] / width_px, matrix[..., 1, :] / height_px
    numbers = torch.stack([across[..., 0], down[..., 1], across[..., 2], down[..., 2]], dim=-1)
    return numbers, torch.linalg.inv(opencv_pose(camera.camera_to_world))[..., :3, :]


def pytorch3d_numbers(
    camera: Camera, ndc: str = "short_side"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return R (for row vectors), T, and focal lengths and principal points in NDC.

    x points left and z forward. +-1 lies at the short side, or ("image_bounds") at every side.
    """
    world_to_camera = torch.linalg.inv(camera.camera_to_world)[..., :3, :].clone()
    world_to_camera[..., [0, 2], :] *= -1
    half_px = torch.tensor(camera.image_size_px).flip(0).to(world_to_camera) / 2
    unit_px = half_px if ndc == "image_bounds" else half_px.min().expand(2)
    matrix = camera.intrinsics_px
    focal = torch.stack([matrix[..., 0, 0], matrix[..., 1, 1]], dim=-1) / unit_px
    principal = (half_px - matrix[..., :2, 2]) / unit_px
    return world_to_camera[..., :3].mT, world_to_camera[..., 3], focal, principal
