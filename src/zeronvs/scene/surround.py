"""A backdrop all around a photographer: the background of a view, reflected on and on."""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import fill_holes, project
from zeronvs.scene.depth_edges import box_mean, lowest, nearest_pixels, shrunk
from zeronvs.scene.surface_splats import alike_blocks, discs
from zeronvs.splats import GaussianSplats

SURROUND_SIGMA_PX = 0.75
"""Standard deviation of splats all around, in pixels of the panorama."""
BACKDROP = 0.9
"""Inverse range of the backdrop behind the image, over that of the image around."""


def surround_splats(
    background: View,
    columns: int,
    *,
    enclosed: bool,
    cracks: Bool[Tensor, "h w"] | None = None,
) -> GaussianSplats:
    """Return splats all around a camera: its background, run out up and down, then reflected.

    Where something encloses the photographer, the image is reflected at its left and right borders
    until the circle is closed, in colours and in range, so that the walls of a room stand all
    around and a level ground stays one. Elsewhere the surface seen runs out smoothly.

    Args:
        background: One view with depth, without what stands free.
        columns: Width of the panorama, pixels.
        enclosed: Whether walls, streets or a landscape go on all around.
        cracks: Where the image's other layers come apart: there a backdrop stands behind them.
    """
    if cracks is None:
        cracks = torch.zeros(background.camera.image_size_px, dtype=torch.bool)
    factor = columns / (2 * math.pi) / float(background.camera.intrinsics_px[0, 0])
    if factor < 1:
        height_px, width_px = background.camera.image_size_px
        background = background.resized(
            max(8, round(height_px * factor)), max(8, round(width_px * factor))
        )
    camera = background.camera
    azimuth_rad = math.pi * (2 * (torch.arange(columns) + 0.5) / columns - 1)
    rays, elevation_rad = panorama_rays(camera, azimuth_rad, columns // 2)
    image, inverse_range, known, cracked = _seen_panorama(background, cracks, rays)
    half_rad = math.atan(0.5 * camera.image_size_px[1] / float(camera.intrinsics_px[0, 0]))
    seen = known
    if enclosed:
        column = _reflected_columns(azimuth_rad, half_rad)
        reflected = (known & (azimuth_rad.abs() < half_rad))[:, column]
        image = torch.where(seen, image, image[:, :, column])
        inverse_range = torch.where(seen, inverse_range, inverse_range[:, column])
        known = seen | reflected
    inverse_range = _continued_range(inverse_range * known, known, elevation_rad)
    image = fill_holes(image[None] * known, known[None, None].float())[0]
    # What lies inside of the image is shown by the other layers, and sharper: there it is a
    # backdrop behind their cracks, so that none is black.
    inside = shrunk(seen, 1)
    inverse_range = torch.where(inside, BACKDROP * lowest(inverse_range, 4), inverse_range)
    parts = []
    for block, alike in alike_blocks(image, inverse_range, ~inside | cracked):
        rows, width = image.shape[-2] // block * block, columns // block * block
        pooled = torch.cat([rays.movedim(-1, 0), inverse_range[None], image])[:, :rows, :width]
        pooled = F.avg_pool2d(pooled[None], block)[0]
        away = F.normalize(pooled[:3].movedim(0, -1), dim=-1)
        points = camera.position + away / pooled[3, ..., None]
        footprint = SURROUND_SIGMA_PX * block * (2 * math.pi / columns) / pooled[3]
        parts.append(discs(points, -away, away, footprint, pooled[4:], alike))
    return GaussianSplats.cat(parts)


def _seen_panorama(
    view: View, mask: Bool[Tensor, "rows columns"], rays: Float[Tensor, "h w 3"]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"], Bool[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Return colour and inverse range of a view along rays, where known, and a mask of it.

    Args:
        view: One view with depth.
        mask: Mask of its image, at any resolution.
        rays: Unit rays.
    """
    camera = view.camera
    assert view.depth_z is not None
    uv_px, cosine = project((camera.position + rays).reshape(-1, 3), camera)
    uv_px, cosine = uv_px.view(*rays.shape[:2], 2), cosine.view(rays.shape[:2])
    height_px, width_px = camera.image_size_px
    size = torch.tensor([width_px, height_px], dtype=uv_px.dtype)
    known = (cosine > 0.05) & ((uv_px > 1) & (uv_px < size - 1)).all(-1)
    layers = torch.cat([view.image, 1.0 / view.depth_z[None]])
    grid = (uv_px / size * 2 - 1)[None]
    sampled = F.grid_sample(layers[None], grid, padding_mode="border", align_corners=False)[0]
    # Disparity is along the optical axis, range along the ray.
    masked = F.grid_sample(mask[None, None].float(), grid, mode="nearest", align_corners=False)
    return sampled[:3], sampled[3] * cosine.clamp_min(0.0), known, known & (masked[0, 0] > 0)


def _reflected_columns(azimuth_rad: Float[Tensor, " w"], half_rad: float) -> Int64[Tensor, " w"]:
    """Return the column of a panorama in which each of its columns is continued.

    A triangle wave of the azimuth, whose period is stretched so that what lies outside of the image
    on either side is a whole number of images and a half: behind the camera the middle of the last
    one from the left meets the middle of the last one from the right.
    """
    columns = len(azimuth_rad)
    outside = math.pi - half_rad
    folds = max(0, round(outside / (2 * half_rad) - 0.5)) + 0.5
    phase = (azimuth_rad.abs() - half_rad).clamp_min(0) / outside * folds
    wave = 1 - (phase % 2 - 1).abs()  # 0 at the border where the image was left, 1 at the other
    folded = torch.where(
        azimuth_rad.abs() <= half_rad, azimuth_rad, azimuth_rad.sign() * half_rad * (1 - 2 * wave)
    )
    # Columns at the very border may lie half outside of the image.
    folded = folded.clamp(-half_rad * 0.98, half_rad * 0.98)
    return ((folded / math.pi + 1) * 0.5 * columns).long().clamp(0, columns - 1)


def panorama_rays(
    camera: Camera, azimuth_rad: Float[Tensor, " w"], rows: int
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """Return unit rays of a panorama around a camera and their elevations, radians.

    Args:
        camera: Azimuths run to the right from its heading.
        azimuth_rad: Azimuth of each column.
        rows: From the zenith to the nadir.
    """
    forward = -camera.camera_to_world[:3, 2]
    heading_rad = torch.atan2(forward[1], forward[0])
    elevation_rad = 0.5 * math.pi * (1 - 2 * (torch.arange(rows) + 0.5) / rows)
    elevation, azimuth = torch.meshgrid(elevation_rad, heading_rad - azimuth_rad, indexing="ij")
    rays = [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()]
    return torch.stack(rays, dim=-1), elevation


def _continued_range(
    inverse_range: Float[Tensor, "h w"],
    known: Bool[Tensor, "h w"],
    elevation_rad: Float[Tensor, "h w"],
) -> Float[Tensor, "h w"]:
    """Continue inverse range up and down from the known pixels of a panorama."""
    # A step sideways counts as twenty up or down: columns are continued along themselves.
    _, row, column = nearest_pixels(known, sampling=(1.0, 20.0))
    continued = inverse_range[row, column].clamp_min(1e-3)
    # Below the image a level ground comes nearer as the sine of the elevation; what is above it
    # keeps its range.
    low = elevation_rad[row, column]
    ground = (elevation_rad < low - 1e-3) & (low < -0.05)
    continued = torch.where(ground, continued * elevation_rad.sin() / low.sin(), continued)
    smooth = continued.log()
    for share in (32, 48):
        radius = max(1, known.shape[0] // share)
        wrapped = F.pad(smooth[None], (radius, radius, 0, 0), mode="circular")
        blurred = box_mean(wrapped, radius)[0, :, radius:-radius]
        smooth = torch.where(known, continued.log(), blurred)
    return smooth.exp()
