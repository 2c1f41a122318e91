"""A backdrop all around a photographer: the background of a view, reflected on and on."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View, box_mean
from zeronvs.cameras.warp import fill_holes, project
from zeronvs.scene.depth_edges import grown, highest, lowest, nearest_pixels, shrunk
from zeronvs.scene.surface_splats import alike_blocks, discs
from zeronvs.splats import GaussianSplats

SURROUND_SIGMA_PX = 0.75
"""Standard deviation of splats all around, in pixels of the panorama."""
SHARPENING_STEPS = 3
"""Corrections of the panorama's colours against the blur of its splats."""
COARSE_RAD = math.radians(30)
"""Elevation, up or down, beyond which one splat stands for 2 x 2 pixels at least ..."""
COARSEST_RAD = math.radians(60)
"""... and for 4 x 4."""
LEAST_WIDTH = 0.6
"""Rows of the image that are narrower, over its usual width, are not reflected by themselves."""
BACKDROP = 0.9
"""Inverse range of the backdrop behind the image, over that of the image around ..."""
STEP_SHARE = 40
"""The panorama's columns over half the window in which something is near ..."""
STEP = 1.15
"""... where its inverse range is this much larger than the least there."""
BEHIND_RIM = 0.98
"""... and around the border of the image, whose finer splats its own would cover."""
RIM_PX = 2
"""Width of that rim, pixels of the panorama."""


def surround_splats(
    surroundings: View,
    columns: int,
    *,
    enclosed: bool,
    behind: View | None = None,
    cracks: Bool[Tensor, "h w"] | None = None,
) -> GaussianSplats:
    """Return splats all around a camera: its surroundings, run out up and down, then reflected.

    Where something encloses the photographer, the image is reflected at its left and right borders
    until the circle is closed, in colours and in range, so that the walls of a room stand all
    around and a level ground stays one. Elsewhere the surface seen runs out smoothly.

    Args:
        surroundings: One view with depth, without what is not to be repeated.
        columns: Width of the panorama, pixels.
        enclosed: Whether walls, streets or a landscape go on all around.
        behind: The same without anything that hides something; None: the surroundings.
        cracks: Where the image's other layers come apart: there a backdrop of `behind` stands.
    """
    if cracks is None:
        cracks = torch.zeros(surroundings.camera.image_size_px, dtype=torch.bool)
    factor = columns / (2 * math.pi) / float(surroundings.camera.intrinsics_px[0, 0])
    views = [surroundings, surroundings if behind is None else behind]
    if factor < 1:
        rows, width = (max(8, round(side * factor)) for side in surroundings.camera.image_size_px)
        views = [view.resized(rows, width) for view in views]
    surroundings, behind = views
    camera = surroundings.camera
    azimuth_rad = math.pi * (2 * (torch.arange(columns) + 0.5) / columns - 1)
    rays, elevation_rad = panorama_rays(camera, azimuth_rad, columns // 2)
    image, inverse_range, seen, cracked = _seen_panorama(surroundings, cracks, rays)
    known = seen
    if enclosed:
        half_rad = math.atan(0.5 * camera.image_size_px[1] / float(camera.intrinsics_px[0, 0]))
        column = _reflected_columns(seen, half_rad)
        reflected = _at_columns(torch.cat([image, inverse_range[None], seen[None].float()]), column)
        image = torch.where(seen, image, reflected[:3])
        inverse_range = torch.where(seen, inverse_range, reflected[3])
        # There is nothing behind the depth edges of a reflection: its surface stays whole.
        smooth = _smoothed(inverse_range, max(1, columns // 180))
        inverse_range = torch.where(seen, inverse_range, smooth)
        known = seen | (reflected[4] > 0.99)
    inverse_range = _continued_range(inverse_range * known, known, elevation_rad)
    image = fill_holes(image[None] * known, known[None, None].float())[0]
    # What lies inside of the image is shown by the other layers, and sharper: there it is a
    # backdrop behind their cracks, so that none is black.
    inside = shrunk(seen, 1)
    carried_on = _carried_on(inverse_range, seen, rays @ -camera.camera_to_world[:3, 2])
    rim = grown(seen, RIM_PX) & ~inside
    inverse_range = torch.where(rim, BEHIND_RIM * carried_on, inverse_range)
    far, opens = _behind_steps(inverse_range)
    opens &= ~inside
    hidden_image, hidden_range, _, _ = _seen_panorama(behind, cracks, rays)
    image = torch.where(inside, hidden_image, image)
    backdrop = BACKDROP * lowest(torch.where(inside, hidden_range, inverse_range), 4)
    inverse_range = torch.where(inside, backdrop, inverse_range)
    image = sharpened(image, SURROUND_SIGMA_PX)
    least = _least_side(elevation_rad)
    shown = ~inside | cracked
    parts = [_splats(camera, rays, image, inverse_range, shown, least)]
    if bool(opens.any()):
        _, row, column = nearest_pixels(~opens & ~inside)
        parts.append(_splats(camera, rays, image[:, row, column], far, opens, least.clamp_min(2)))
    return GaussianSplats.cat(parts)


def _behind_steps(
    inverse_range: Float[Tensor, "h w"],
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Return the inverse range behind what is near beside something far, and where that is.

    Outside of the image there are no hidden layers: where the range has a step, a gap opens as the
    camera moves.
    """
    radius_px = max(1, inverse_range.shape[1] // STEP_SHARE)
    low, high = lowest(inverse_range, radius_px), highest(inverse_range, radius_px)
    # A ground that comes nearer falls on one side as it rises on the other: nothing is behind it.
    near = (inverse_range > STEP * low) & (inverse_range - low > 2 * (high - inverse_range))
    return BACKDROP * low, grown(near, max(1, radius_px // 2))


def _splats(
    camera: Camera,
    rays: Float[Tensor, "h w 3"],
    image: Float[Tensor, "3 h w"],
    inverse_range: Float[Tensor, "h w"],
    shown: Bool[Tensor, "h w"],
    least: Int[Tensor, "h w"],
) -> GaussianSplats:
    """Return splats of the shown pixels of a panorama, one for several where they are alike."""
    columns = image.shape[2]
    parts = []
    for block, alike in alike_blocks(image, inverse_range, shown, least):
        rows, width = image.shape[-2] // block * block, columns // block * block
        pooled = torch.cat([rays.movedim(-1, 0), inverse_range[None], image])[:, :rows, :width]
        pooled = F.avg_pool2d(pooled[None], block)[0]
        away = F.normalize(pooled[:3].movedim(0, -1), dim=-1)
        points = camera.position + away / pooled[3, ..., None]
        footprint = SURROUND_SIGMA_PX * block * (2 * math.pi / columns) / pooled[3]
        parts.append(discs(points, -away, away, footprint, pooled[4:], alike))
    return GaussianSplats.cat(parts)


def sharpened(image: Float[Tensor, "3 h w"], sigma_px: float) -> Float[Tensor, "3 h w"]:
    """Return a panorama that a Gaussian blurs to the one given (Van Cittert's deconvolution).

    Args:
        image: RGB in [0, 1]; its left border meets its right one.
        sigma_px: Standard deviation of the blur.
    """
    modes: Any = ("nearest", "nearest", "wrap")  # the stubs know one mode for all axes only
    sharp = image
    for _ in range(SHARPENING_STEPS):
        blurred = ndimage.gaussian_filter(sharp.numpy(), (0, sigma_px, sigma_px), mode=modes)
        sharp = (sharp + image - torch.from_numpy(blurred)).clamp(0, 1)
    return sharp


def _carried_on(
    inverse_range: Float[Tensor, "h w"], seen: Bool[Tensor, "h w"], cosine: Float[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """Return inverse range with the depth, not the range, of the nearest pixel that is seen.

    Args:
        inverse_range: Along each ray.
        seen: Where the image is.
        cosine: Of the angle between each ray and the optical axis.
    """
    _, row, column = nearest_pixels(seen)
    return (inverse_range / cosine)[row, column] * cosine


def _smoothed(values: Float[Tensor, "h w"], radius_px: int) -> Float[Tensor, "h w"]:
    """Return the mean around each pixel of a panorama."""
    padded = F.pad(values[None], (radius_px, radius_px, 0, 0), mode="circular")
    return box_mean(padded, radius_px)[0, :, radius_px : radius_px + values.shape[1]]


def _least_side(elevation_rad: Float[Tensor, "h w"]) -> Int[Tensor, "h w"]:
    """Return the least side of blocks: columns meet at the poles, and few look there."""
    height_rad = elevation_rad.abs()
    return 1 + (height_rad > COARSE_RAD).int() + 2 * (height_rad > COARSEST_RAD).int()


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
    known = (cosine > 0.05) & ((uv_px > 0.5) & (uv_px < size - 0.5)).all(-1)
    layers = torch.cat([view.image, 1.0 / view.depth_z[None]])
    grid = (uv_px / size * 2 - 1)[None]
    sampled = F.grid_sample(layers[None], grid, padding_mode="border", align_corners=False)[0]
    # Disparity is along the optical axis, range along the ray.
    masked = F.grid_sample(mask[None, None].float(), grid, mode="nearest", align_corners=False)
    return sampled[:3], sampled[3] * cosine.clamp_min(0.0), known, known & (masked[0, 0] > 0)


def _at_columns(
    values: Float[Tensor, "c h w"], column: Float[Tensor, "h w"]
) -> Float[Tensor, "c h w"]:
    """Return the values of each row of a panorama at other columns of it, interpolated."""
    columns = values.shape[2]
    first = column.floor()
    share = column - first
    low, high = (
        values.gather(2, (index.long() % columns).expand_as(values)) for index in (first, first + 1)
    )
    return torch.lerp(low, high, share)


def _reflected_columns(seen: Bool[Tensor, "h w"], half_rad: float) -> Float[Tensor, "h w"]:
    """Return the column of a panorama in which each of its pixels is continued.

    In each row, a triangle wave of the azimuth beyond the borders of what is seen, whose period is
    stretched so that what lies outside on either side is a whole number of images and a half:
    behind the camera the middle of the last one from the left meets the middle of the last one from
    the right. A tilted camera's image is wider in some rows than in others.

    Args:
        seen: Where the image is.
        half_rad: Half its horizontal field of view.
    """
    columns = seen.shape[1]
    width = seen.sum(1)
    left = seen.int().argmax(1)
    right = columns - 1 - seen.flip(1).int().argmax(1)
    # Where the image runs out, it is narrow, or in two parts: there the borders of other rows hold.
    usual = columns * half_rad / math.pi
    whole = (width > LEAST_WIDTH * usual) & (width == right - left + 1)
    if not whole.any():
        return torch.arange(columns).float().expand_as(seen)
    _, row, _ = nearest_pixels(whole[:, None])
    # Borders lie between pixels: they are smoothed, or what is reflected would have their steps.
    borders = torch.stack([left, right]).float()[:, row[:, 0]]
    left_column, right_column = box_mean(borders[..., None], max(1, columns // 128))
    center, half = 0.5 * (left_column + right_column), 0.5 * (right_column - left_column)
    folds = max(0, round((math.pi - half_rad) / (2 * half_rad) - 0.5)) + 0.5
    offset = (torch.arange(columns) - center + 0.5 * columns) % columns - 0.5 * columns
    outside = (0.5 * columns - half).clamp_min(1)
    phase = (offset.abs() - half).clamp_min(0) / outside * folds
    wave = 1 - (phase % 2 - 1).abs()  # 0 at the border where the image was left, 1 at the other
    folded = torch.where(offset.abs() <= half, offset, offset.sign() * half * (1 - 2 * wave))
    return (center + folded) % columns


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
        smooth = torch.where(known, continued.log(), _smoothed(smooth, radius))
    return smooth.exp()
