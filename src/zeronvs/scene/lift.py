"""A photograph with depth, lifted to Gaussian splats: what a preview is made of.

    front     every pixel of the photograph, on its surface; fewer where nothing changes
    hidden    behind depth edges, and behind what stands free, what lies behind continues
    margin    around the frame, the image continues
    surround  all the way round the photographer, on the sphere: the background continues

Only the front shows what was photographed; the rest continues its texture (`texture`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import fill_holes, project, unproject
from zeronvs.scene.depth_edges import (
    box_mean,
    grown,
    highest,
    lowest,
    nearest_pixels,
    refine_depth,
    steps,
)
from zeronvs.scene.rasterizer import rasterize
from zeronvs.scene.texture import continue_texture
from zeronvs.splats import GaussianSplats


@dataclass(frozen=True, kw_only=True)
class LiftConfig:
    """Settings of lifting a view."""

    motion: float = 0.3
    """How far cameras move without seeing behind the hidden layer, scene units."""
    margin: float = 0.2
    """How far the image continues beyond its frame, over its longer side."""
    fill_side_px: int = 384
    """Longer side of the photograph at which what is not seen is continued."""
    surround_width_px: int = 1152
    """Width of the panorama around the photographer."""
    splat_sigma_px: float = 0.35
    """Standard deviation of a pixel's splat."""
    color_steps: int = 5
    """Corrections of the front's colours by what its own camera sees of it."""


def lift_view(
    view: View, config: LiftConfig | None = None, *, seed: int = 0, progress: Progress = silent
) -> GaussianSplats:
    """Lift one view with depth to splats all around it.

    Args:
        view: One view with depth everywhere, scene units.
        config: Settings.
        seed: Of the texture's random search.
        progress: Called after each layer.
    """
    config = config or LiftConfig()
    report = _Reports(progress, 5)
    view = refine_depth(view.to("cpu"))
    report()
    front = front_splats(view, config.splat_sigma_px)
    report()
    canvas = extend(view, config, seed)
    report()
    background, hidden = uncover(canvas, config, seed + 1)
    layers = [front, surface_splats(background, hidden, HIDDEN_SIGMA_PX), margin_splats(canvas)]
    report()
    splats = GaussianSplats.cat([*layers, surround_splats(background, config)])
    splats = match_colors(splats, len(front), view, config.color_steps)
    report()
    return splats


class _Reports:
    """Counts the steps for a progress listener."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        progress(ProgressEvent("lift the photograph", 0, total))

    def __call__(self) -> None:
        self.done += 1
        self.progress(ProgressEvent("lift the photograph", self.done, self.total))


# ---- the photograph's own pixels


def front_splats(view: View, sigma_px: float) -> GaussianSplats:
    """Return a splat for every pixel of a view with depth; one for 4 or 16 where they are alike."""
    assert view.depth_z is not None
    height_px, width_px = view.camera.image_size_px
    disparity = 1.0 / view.depth_z
    parts = []
    for block, alike in alike_blocks(view.image, disparity):
        rows, columns = height_px // block * block, width_px // block * block
        camera = Camera(view.camera.camera_to_world, view.camera.intrinsics_px, (rows, columns))
        small = View(
            F.avg_pool2d(view.image[None, :, :rows, :columns], block)[0],
            camera.resized(rows // block, columns // block),
            1.0 / F.avg_pool2d(disparity[None, None, :rows, :columns], block)[0, 0],
        )
        parts.append(surface_splats(small, alike, sigma_px if block == 1 else BLOCK_SIGMA_PX))
    return GaussianSplats.cat(parts)


def alike_blocks(
    image: Float[Tensor, "3 h w"],
    inverse_range: Float[Tensor, "h w"],
    keep: Bool[Tensor, "h w"] | None = None,
) -> Iterator[tuple[int, Bool[Tensor, "rows columns"]]]:
    """Split an image into blocks of 4 x 4, 2 x 2 and single pixels that are nearly constant.

    Args:
        image: RGB in [0, 1].
        inverse_range: Inverse depth or range.
        keep: Pixels that are wanted; None: all.

    Yields:
        Side of the blocks.
        Which blocks of that side are alike inside and lie in no larger one.
    """
    height_px, width_px = inverse_range.shape
    left = torch.ones(height_px, width_px, dtype=torch.bool) if keep is None else keep.clone()
    for block in (4, 2):
        rows, columns = height_px // block * block, width_px // block * block
        values = torch.cat([image, inverse_range[None].log()])[:, :rows, :columns]
        # The blocks around must be alike, too: a wide splat reaches into them.
        high = F.max_pool2d(F.max_pool2d(values[None], block), 3, 1, 1)[0]
        low = -F.max_pool2d(F.max_pool2d(-values[None], block), 3, 1, 1)[0]
        alike = ((high - low)[:3] < SAME_COLOR).all(0)
        alike &= (high - low)[3] < SAME_RANGE * 3 * block
        # Not one pixel of it may be taken or unwanted.
        wanted = left[:rows, :columns].float()[None, None]
        alike &= F.avg_pool2d(wanted, block)[0, 0] == 1
        left[:rows, :columns] &= ~alike.repeat_interleave(block, 0).repeat_interleave(block, 1)
        if alike.any():
            yield block, alike
    yield 1, left


def surface_splats(
    view: View,
    keep: Bool[Tensor, "h w"],
    sigma_px: float,
    opacity: Float[Tensor, "h w"] | None = None,
) -> GaussianSplats:
    """Return flat splats on the surfaces of a view, as wide as the footprints of their pixels.

    Args:
        view: One view with depth.
        keep: Which pixels get one.
        sigma_px: Standard deviation seen from the view's camera.
        opacity: In [0, 1]; None: nearly opaque.
    """
    points = unproject(view)
    away = F.normalize(points - view.camera.position, dim=-1)
    distance = (points - view.camera.position).norm(dim=-1)
    normal = _surface_normals(points, away)
    footprint = sigma_px * distance / view.camera.intrinsics_px[0, 0]
    return _discs(points, normal, away, footprint, view.image, keep, opacity)


def _discs(
    points: Float[Tensor, "h w 3"],
    normal: Float[Tensor, "h w 3"],
    away: Float[Tensor, "h w 3"],
    footprint: Float[Tensor, "h w"],
    image: Float[Tensor, "3 h w"],
    keep: Bool[Tensor, "h w"],
    opacity: Float[Tensor, "h w"] | None = None,
) -> GaussianSplats:
    """Return discs that look round from where the rays `away` come from."""
    normal, away, points = normal[keep], away[keep], points[keep]
    cosine = -(normal * away).sum(-1, keepdim=True)
    # The disc is longer by 1 / cosine along the direction in which the surface runs away.
    along = away + cosine * normal
    level = torch.stack([-away[:, 1], away[:, 0], torch.zeros_like(away[:, 0])], -1)
    level = level - (level * normal).sum(-1, keepdim=True) * normal
    along = F.normalize(torch.where(along.norm(dim=-1, keepdim=True) > 1e-3, along, level), dim=-1)
    across = torch.linalg.cross(along, normal)
    size = footprint[keep]
    return GaussianSplats(
        points,
        torch.stack([size, size / cosine[:, 0], 0.1 * size], dim=-1),
        quaternion(torch.stack([across, along, normal], dim=-1)),
        torch.full_like(size, 0.99) if opacity is None else opacity[keep],
        image.permute(1, 2, 0)[keep],
    )


FILL_SIGMA_PX = 0.6
"""Standard deviation of splats of what is not seen, in pixels of the canvas."""
HIDDEN_SIGMA_PX = 0.9
"""The same of what is hidden, which is seen from the side."""
CLEARLY_BEHIND = 0.96
"""What is hidden lies at most at this share of the disparity in front of it: none shows through."""
SURROUND_SIGMA_PX = 0.75
"""Standard deviation of splats all around, in pixels of the panorama."""
SAME_COLOR = 6 / 255
"""Pixels whose colours differ by less may share one splat ..."""
SAME_RANGE = 0.005
"""... where the logarithms of their ranges differ by less than this per pixel."""
BLOCK_SIGMA_PX = 0.75
"""Standard deviation of splats that stand for several pixels, over their side."""
LEVEL_RAD = math.radians(25)
"""Elevation up to which a camera counts as looking level."""
EDGE_RATIO = 1.05
"""Depths within two pixels that differ by more belong to different surfaces."""
EDGE_COLOR_LIMIT = 0.03
COLOR_LIMIT = 0.3
"""Colours are corrected by this at most: what other splats hide cannot be corrected."""
LEAST_COSINE = 0.3
"""Splats on surfaces that run away more steeply are turned towards the camera: no needles."""


def _surface_normals(
    points: Float[Tensor, "h w 3"], away: Float[Tensor, "h w 3"]
) -> Float[Tensor, "h w 3"]:
    """Return unit normals towards the camera, none steeper than `LEAST_COSINE`."""

    def tangent(dim: int) -> Tensor:
        # Of the steps to the two neighbours, the shorter: the other may cross a depth edge.
        step = points.diff(dim=dim)
        ahead = torch.cat([step, step.narrow(dim, -1, 1)], dim)
        behind = torch.cat([step.narrow(dim, 0, 1), step], dim)
        shorter = ahead.norm(dim=-1, keepdim=True) <= behind.norm(dim=-1, keepdim=True)
        return torch.where(shorter, ahead, behind)

    normal = F.normalize(torch.linalg.cross(tangent(0), tangent(1)), dim=-1)
    cosine = -(normal * away).sum(-1, keepdim=True)
    normal, cosine = normal * torch.where(cosine < 0, -1.0, 1.0), cosine.abs()
    sideways = F.normalize(normal + cosine * away, dim=-1)
    least = math.sqrt(1 - LEAST_COSINE**2) * sideways - LEAST_COSINE * away
    return F.normalize(torch.where(cosine < LEAST_COSINE, least, normal), dim=-1)


def quaternion(rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 4"]:
    """Return the quaternions w, x, y, z of rotation matrices.

    The largest of the four squared components is found first and divides the rest (Shepperd 1978).
    """
    r = rotation
    trace = r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2]
    # 4 w^2, 4 x^2, 4 y^2, 4 z^2, each minus 1.
    squared = torch.stack([trace, *(2 * r[:, i, i] - trace for i in range(3))], dim=-1)
    best = squared.argmax(-1)
    # Row k holds the four components times 4 * component k.
    wx, wy, wz = r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]
    xy, xz, yz = r[:, 0, 1] + r[:, 1, 0], r[:, 0, 2] + r[:, 2, 0], r[:, 1, 2] + r[:, 2, 1]
    w, x, y, z = (squared + 1).unbind(-1)
    rows = torch.stack(
        [
            torch.stack([w, wx, wy, wz], -1),
            torch.stack([wx, x, xy, xz], -1),
            torch.stack([wy, xy, y, yz], -1),
            torch.stack([wz, xz, yz, z], -1),
        ],
        dim=1,
    )
    chosen = rows.gather(1, best[:, None, None].expand(-1, 1, 4))[:, 0]
    return F.normalize(chosen, dim=-1)


def match_colors(splats: GaussianSplats, front: int, view: View, count: int) -> GaussianSplats:
    """Correct the colours of the first `front` splats so that their camera sees the photograph.

    Splats overlap, which blurs: what is missing at each splat's pixel is added to it, `count` times
    (Van Cittert's deconvolution). Beside depth edges the colours stay nearly as they are: there
    other surfaces overlap, and what is added for one camera would be a rim for the next.
    """
    assert view.depth_z is not None
    first, colors = splats.colors[:front], splats.colors.clone()
    height_px, width_px = view.camera.image_size_px
    uv_px, _ = project(splats.means[:front], view.camera)
    size = torch.tensor([width_px, height_px], dtype=uv_px.dtype)
    grid = (uv_px / size * 2 - 1)[None, None]
    edge = highest(view.depth_z, 2) > lowest(view.depth_z, 2) * EDGE_RATIO
    limits = torch.where(edge, EDGE_COLOR_LIMIT, COLOR_LIMIT)[None, None]
    limit = F.grid_sample(limits, grid, align_corners=False)[0, 0].T
    for _ in range(count):
        rendered, _, _ = rasterize(splats.with_colors(colors), view.camera)
        missing = F.grid_sample(view.image[None] - rendered, grid, align_corners=False)
        change = colors[:front] + missing[0, :, 0].T - first
        colors[:front] = (first + change.clamp(-limit, limit)).clamp(0, 1)
    return splats.with_colors(colors)


# ---- what the photograph does not show


@dataclass(frozen=True, eq=False)
class Canvas:
    """The photograph with a margin around it, at the resolution at which it is continued."""

    view: View
    """Image and depth, continued into the margin."""
    known: Bool[Tensor, "h w"]
    """Where the photograph is."""


def extend(view: View, config: LiftConfig, seed: int) -> Canvas:
    """Continue a view beyond its frame, in image and depth."""
    height_px, width_px = view.camera.image_size_px
    factor = min(1.0, config.fill_side_px / max(height_px, width_px))
    small = view.resized(max(2, round(height_px * factor)), max(2, round(width_px * factor)))
    assert small.depth_z is not None
    margin_px = round(config.margin * max(small.camera.image_size_px))
    rows, columns = (side + 2 * margin_px for side in small.camera.image_size_px)
    intrinsics_px = small.camera.intrinsics_px.clone()
    intrinsics_px[:2, 2] += margin_px
    camera = Camera(small.camera.camera_to_world, intrinsics_px, (rows, columns))
    around = (margin_px,) * 4
    known = F.pad(torch.ones(small.camera.image_size_px, dtype=torch.bool), around)
    image = F.pad(small.image[None], around, mode="replicate")[0]
    nearest = F.pad(1.0 / small.depth_z[None, None], around, mode="replicate")
    disparity = fill_holes(nearest * known, known[None, None].float())[0, 0]
    disparity = torch.where(known, disparity, box_mean(disparity[None], 3)[0])
    canvas = View(image, camera, 1.0 / disparity)
    free, _ = standing_free(canvas, known, config.motion)
    image = continue_texture(
        image, ~known, source=known & ~free, guide=_guide(canvas, known), seed=seed
    )
    return Canvas(View(image, camera, 1.0 / disparity), known)


def behind_edges(
    view: View, known: Bool[Tensor, "h w"], motion: float, reach_px: float | None = None
) -> tuple[Bool[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return where something lies hidden behind the surface seen, and its disparity.

    From each depth edge, the surface behind it continues under the near side, as far as the motion
    uncovers: motion * focal length * difference of disparities.

    Args:
        view: One view with depth.
        known: Edges are looked for inside this.
        motion: How far the camera moves, scene units.
        reach_px: How far from its edges everything nearer than what lies behind counts; None: as
            far as the motion uncovers.
    """
    assert view.depth_z is not None
    disparity, focal_px = 1.0 / view.depth_z, float(view.camera.intrinsics_px[0, 0])
    edge = steps(disparity, focal_px, motion) & known
    if not edge.any():
        return torch.zeros_like(known), disparity
    distance, row, column = nearest_pixels(edge)
    far = lowest(disparity, 4)[row, column]
    gap_px = motion * focal_px * (disparity - far)
    reach = gap_px + 3 if reach_px is None else torch.full_like(gap_px, reach_px)
    hidden = (distance <= reach) & (gap_px > 1.5) & known
    smooth = torch.where(hidden, far, disparity)
    for _ in range(4):
        smooth = torch.where(hidden, torch.minimum(box_mean(smooth[None], 2)[0], far), smooth)
    return hidden, torch.where(hidden, torch.minimum(smooth, disparity), disparity)


def standing_free(
    view: View, known: Bool[Tensor, "h w"], motion: float
) -> tuple[Bool[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return what stands free inside the known part of a view, and the disparity behind it.

    It is not repeated beside the frame. Things that the frame cuts are continued.
    """
    reach_px = 0.25 * max(view.camera.image_size_px)
    free, behind = behind_edges(view, known, motion, reach_px)
    labelled: Any = ndimage.label(free.numpy())
    regions = torch.from_numpy(labelled[0])
    border = known & grown(~known, 3)
    free &= ~torch.isin(regions, regions[border])
    assert view.depth_z is not None
    return free, torch.where(free, behind, 1.0 / view.depth_z)


def uncover(canvas: Canvas, config: LiftConfig, seed: int) -> tuple[View, Bool[Tensor, "h w"]]:
    """Return what lies behind the depth edges of a canvas, and behind what stands free.

    Returns:
        The canvas without what hides something.
        Where it differs from the canvas.
    """
    view = canvas.view
    everywhere = torch.ones_like(canvas.known)
    hidden, disparity = behind_edges(view, everywhere, config.motion)
    free, behind_free = standing_free(view, everywhere, config.motion)
    disparity = torch.where(free, behind_free, disparity)
    # Pixels at an edge mix both sides: they are neither kept nor copied.
    hole = grown(hidden | free, 2)
    assert view.depth_z is not None
    disparity = torch.where(
        hole, torch.minimum(disparity, CLEARLY_BEHIND * lowest(1.0 / view.depth_z, 2)), disparity
    )
    behind = view.with_depth(1.0 / disparity)
    image = continue_texture(view.image, hole, guide=_guide(behind, everywhere), seed=seed)
    return View(image, view.camera, behind.depth_z), hole


def margin_splats(canvas: Canvas) -> GaussianSplats:
    """Return splats of what lies around the photograph's frame; none reaches into it."""
    near = grown(canvas.known, 1)
    return surface_splats(canvas.view, ~near, FILL_SIGMA_PX)


def _guide(view: View, known: Bool[Tensor, "h w"]) -> Float[Tensor, "2 h w"]:
    """Return elevation and disparity of every pixel: patches come from where both are alike."""
    assert view.depth_z is not None
    ray = F.normalize(unproject(view) - view.camera.position, dim=-1)
    return _scaled_guide(torch.asin(ray[..., 2].clamp(-1, 1)), 1.0 / view.depth_z, known)


def _scaled_guide(
    elevation_rad: Float[Tensor, "h w"], disparity: Float[Tensor, "h w"], known: Bool[Tensor, "h w"]
) -> Float[Tensor, "2 h w"]:
    low, high = elevation_rad[known].amin(), elevation_rad[known].amax()
    elevation = elevation_rad.clamp(low, high) / (high - low).clamp_min(0.1)
    return torch.stack([elevation, 0.5 * disparity.log()])


def surround_splats(background: View, config: LiftConfig) -> GaussianSplats:
    """Return splats all around a camera: its background, run out up and down, then reflected.

    Seen from a photographer who looks level, the image is reflected at its left and right borders
    until the circle is closed, in colours and in range, so that the walls of a room stand all
    around and a level ground stays one. Who looks down sees a surface that runs out smoothly.

    Args:
        background: One view with depth, without what stands free.
        config: Settings.
    """
    columns = config.surround_width_px
    factor = columns / (2 * math.pi) / float(background.camera.intrinsics_px[0, 0])
    if factor < 1:
        height_px, width_px = background.camera.image_size_px
        background = background.resized(
            max(8, round(height_px * factor)), max(8, round(width_px * factor))
        )
    camera = background.camera
    azimuth_rad = math.pi * (2 * (torch.arange(columns) + 0.5) / columns - 1)
    rays, elevation_rad = panorama_rays(camera, azimuth_rad, columns // 2)
    image, inverse_range, known = _seen_panorama(background, rays)
    half_rad = math.atan(0.5 * camera.image_size_px[1] / float(camera.intrinsics_px[0, 0]))
    straight = known
    if float(camera.elevation_rad) < LEVEL_RAD:
        straight = known & (azimuth_rad.abs() < half_rad)
        column = _reflected_columns(azimuth_rad, half_rad)
        image, inverse_range = image[:, :, column], inverse_range[:, column]
        known = straight[:, column]
    inverse_range = _continued_range(inverse_range * known, known, elevation_rad)
    image = fill_holes(image[None] * known, known[None, None].float())[0]
    # What lies inside of the image is shown by the other layers, and sharper.
    parts = []
    for block, alike in alike_blocks(image, inverse_range, ~grown(straight, 1)):
        rows, width = image.shape[-2] // block * block, columns // block * block
        pooled = torch.cat([rays.movedim(-1, 0), inverse_range[None], image])[:, :rows, :width]
        pooled = F.avg_pool2d(pooled[None], block)[0]
        away = F.normalize(pooled[:3].movedim(0, -1), dim=-1)
        points = camera.position + away / pooled[3, ..., None]
        footprint = SURROUND_SIGMA_PX * block * (2 * math.pi / columns) / pooled[3]
        parts.append(_discs(points, -away, away, footprint, pooled[4:], alike))
    return GaussianSplats.cat(parts)


def _seen_panorama(
    view: View, rays: Float[Tensor, "h w 3"]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Return colour and inverse range of a view along rays from its camera, and where known."""
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
    return sampled[:3], sampled[3] * cosine.clamp_min(0.0), known


def _reflected_columns(azimuth_rad: Float[Tensor, " w"], half_rad: float) -> Int64[Tensor, " w"]:
    """Return the column of a panorama in which each of its columns is continued.

    A triangle wave of the azimuth, whose period is stretched to divide what lies outside of the
    image, so that the last reflection meets the first one behind the camera.
    """
    columns = len(azimuth_rad)
    outside = math.pi - half_rad
    folds = max(1, round(outside / (2 * half_rad)))
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
        azimuth_rad: Of each column.
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
