"""Rays through pixels, in the world frame (the way back is `zeronvs.cameras.warp.project`).

Pixel positions are (u, v): u runs right, v runs down, and the centre of the top-left pixel is
(0.5, 0.5).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.camera import Camera


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays in the world frame."""

    origins: Float[Tensor, "*rays 3"]
    """Optical centres, scene units."""
    directions: Float[Tensor, "*rays 3"]
    """Unit vectors."""
    z_per_unit_distance: Float[Tensor, "*rays"]
    """Cosine to the optical axis, in (0, 1]: depth_z = distance along the ray * this."""


def camera_rays(camera: Camera) -> Rays:
    """Return the rays through all pixel centres, with axes `*batch height width`."""
    height_px, width_px = camera.image_size_px
    intrinsics_px = camera.intrinsics_px
    v, u = torch.meshgrid(
        torch.arange(height_px, dtype=intrinsics_px.dtype, device=intrinsics_px.device) + 0.5,
        torch.arange(width_px, dtype=intrinsics_px.dtype, device=intrinsics_px.device) + 0.5,
        indexing="ij",
    )
    rays = pixel_rays(camera, torch.stack([u, v], dim=-1).reshape(-1, 2))
    shape = (*camera.batch_shape, height_px, width_px)
    return Rays(
        rays.origins.reshape(*shape, 3),
        rays.directions.reshape(*shape, 3),
        rays.z_per_unit_distance.reshape(shape),
    )


def pixel_rays(camera: Camera, uv_px: Float[Tensor, "*batch n 2"]) -> Rays:
    """Return the rays through some pixel positions, with axes `*batch n`.

    Args:
        camera: One camera or a batch of them.
        uv_px: Pixel positions (u, v). The leading axes of `camera` and `uv_px` are broadcast
            against each other.
    """
    focal_px = camera.intrinsics_px.diagonal(dim1=-2, dim2=-1)[..., :2]
    centre_px = camera.intrinsics_px[..., :2, 2]
    slope = (uv_px - centre_px[..., None, :]) / focal_px[..., None, :]
    in_camera = torch.stack(
        [slope[..., 0], -slope[..., 1], torch.full_like(slope[..., 0], -1.0)], dim=-1
    )
    length = in_camera.norm(dim=-1, keepdim=True)
    directions = (in_camera / length) @ camera.camera_to_world[..., :3, :3].mT
    origins = camera.position[..., None, :].expand_as(directions)
    return Rays(origins, directions, 1.0 / length[..., 0])
