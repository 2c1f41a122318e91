"""Moving the pixels of a view to other cameras along its depth.

A forward warp: every pixel becomes a small patch of points, the points are projected into the
target camera, and the nearest surface wins. Pixels that no point reaches are holes; they are filled
smoothly, and a validity mask marks them. The warp conditions the built-in model on the visible
content of a novel view (the "warp + pose" condition of MegaScenes), and makes training pairs of
single photographs (AdaMPI, arXiv:2205.11733).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View

SURFACE_THICKNESS = 0.04
"""Points within this fraction behind the nearest one belong to the same surface."""
EDGE_RATIO = 1.08
"""Neighbouring depths with a larger ratio are different surfaces: no point is put between them."""
MIRRORED = (1.0, 0.5, 0.25)
"""Reflection ratios, tried in order: a hole pixel at distance d from the border copies the known
pixel ratio * d inside it."""
BEHIND = 3.0
"""Squared pixel distances are multiplied by depth ** -BEHIND when a hole is filled, so that
disocclusions are filled from the background."""
BACK_FACING = -0.2
"""A surface seen from behind (cosine to its normal below this) is not what the view showed."""


def unproject(view: View) -> Float[Tensor, "*batch h w 3"]:
    """Return the world point of every pixel centre of a view with known depth, in scene units."""
    if view.depth_z is None:
        raise ValueError("the view has no depth to unproject")
    return unproject_depth(view.depth_z, view.camera)


def unproject_depth(
    depth_z: Float[Tensor, "*batch h w"], camera: Camera
) -> Float[Tensor, "*batch h w 3"]:
    """Return the world point of every pixel centre, given depth along the optical axis."""
    height_px, width_px = depth_z.shape[-2:]
    scale_y = camera.image_size_px[0] / height_px
    scale_x = camera.image_size_px[1] / width_px
    v_px = (torch.arange(height_px, device=depth_z.device, dtype=depth_z.dtype) + 0.5) * scale_y
    u_px = (torch.arange(width_px, device=depth_z.device, dtype=depth_z.dtype) + 0.5) * scale_x
    intrinsics_px = camera.intrinsics_px[..., None, None, :, :]
    x = (u_px - intrinsics_px[..., 0, 2]) / intrinsics_px[..., 0, 0] * depth_z
    y = -(v_px[:, None] - intrinsics_px[..., 1, 2]) / intrinsics_px[..., 1, 1] * depth_z
    points = torch.stack([x, y, -depth_z], dim=-1)
    rotation = camera.camera_to_world[..., None, None, :3, :3]
    translation = camera.camera_to_world[..., None, None, :3, 3]
    return (rotation @ points[..., None])[..., 0] + translation


def project(
    points: Float[Tensor, "*batch n 3"], camera: Camera
) -> tuple[
    Float[Tensor, "*batch n 2"],  # u, v in pixels; meaningless behind the camera
    Float[Tensor, "*batch n"],  # depth along the optical axis, scene units
]:
    """Project world points into a camera."""
    rotation = camera.camera_to_world[..., :3, :3]
    local = (points - camera.position[..., None, :]) @ rotation
    depth_z = -local[..., 2]
    safe_z = torch.where(depth_z.abs() < 1e-6, torch.full_like(depth_z, 1e-6), depth_z)
    intrinsics_px = camera.intrinsics_px[..., None, :, :]
    u_px = intrinsics_px[..., 0, 0] * local[..., 0] / safe_z + intrinsics_px[..., 0, 2]
    v_px = -intrinsics_px[..., 1, 1] * local[..., 1] / safe_z + intrinsics_px[..., 1, 2]
    return torch.stack([u_px, v_px], dim=-1), depth_z


def forward_warp(
    view: View, target: Camera, *, supersampling: int = 2
) -> tuple[
    Float[Tensor, "b 3 h w"],  # the view seen from the targets, holes filled smoothly
    Float[Tensor, "b 1 h w"],  # 1 where a point of the view landed, else 0
]:
    """Move a batch of views with depth into a batch of target cameras.

    Args:
        view: b views with depth (0 = unknown), scene units.
        target: b cameras; their image size is the size of the result.
        supersampling: Points per pixel along each axis; 2 closes the cracks of a 2x approach.
    """
    moved, validity = warp_view(view, target, supersampling=supersampling)
    return moved.image, validity


def warp_view(
    view: View, target: Camera, *, supersampling: int = 2
) -> tuple[
    View,  # image and depth as the targets see them; depth 0 in holes, image filled smoothly
    Float[Tensor, "b 1 h w"],  # 1 where a point of the view landed, else 0
]:
    """Move a batch of views into target cameras together with their depth (see `forward_warp`)."""
    cloud = surface_points(view, supersampling)
    uv_px, depth_z = project(cloud.position, target)
    known = cloud.faces(target)
    moved, validity = splat_points(uv_px, depth_z, depth_z[..., None], known, target.image_size_px)
    # Splatting blurs twice, which depth tolerates since it is smooth. Colours are resampled from
    # the view itself, at the projections of the splatted surface.
    image = read_back(view, target, moved[:, 0]) * validity
    continued = continue_image(image, validity, moved[:, 0])
    return View(continued, target, moved[:, 0] * validity[:, 0]), validity


def read_back(
    view: View, target: Camera, depth_z: Float[Tensor, "b h w"]
) -> Float[Tensor, "b 3 h w"]:
    """Return the colours that the view shows of the surface points at the target's pixels.

    Args:
        view: b views; colours beyond their borders are those of the border.
        target: b cameras.
        depth_z: Depth of the surfaces at the targets' pixels, scene units.
    """
    points = rearrange(unproject_depth(depth_z, target), "b h w c -> b (h w) c")
    uv_px, _ = project(points, view.camera)
    height_px, width_px = view.camera.image_size_px
    size = torch.tensor([width_px, height_px], dtype=uv_px.dtype, device=uv_px.device)
    grid = rearrange(uv_px / size * 2 - 1, "b (h w) c -> b h w c", h=depth_z.shape[-2])
    image = F.grid_sample(
        view.image, grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    return image.clamp(0, 1)


def splat_points(
    uv_px: Float[Tensor, "b n 2"],
    depth_z: Float[Tensor, "b n"],
    values: Float[Tensor, "b n c"],
    known: Bool[Tensor, "b n"],
    image_size_px: tuple[int, int],
) -> tuple[
    Float[Tensor, "b c h w"],  # values of the nearest surface, holes filled smoothly
    Float[Tensor, "b 1 h w"],  # 1 where a point landed, else 0
]:
    """Splat projected points bilinearly; the nearest surface of each pixel wins."""
    height_px, width_px = image_size_px
    batch, count = depth_z.shape
    corner = torch.floor(uv_px - 0.5)
    fraction = uv_px - 0.5 - corner
    offsets = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=uv_px.device)
    column = corner[..., None, 0] + offsets[:, 0]
    row = corner[..., None, 1] + offsets[:, 1]
    weight_x = torch.where(offsets[:, 0] == 1, fraction[..., None, 0], 1 - fraction[..., None, 0])
    weight_y = torch.where(offsets[:, 1] == 1, fraction[..., None, 1], 1 - fraction[..., None, 1])
    inside = (column >= 0) & (column < width_px) & (row >= 0) & (row < height_px)
    inside = inside & (known & (depth_z > 1e-4))[..., None]
    weight = torch.where(inside, weight_x * weight_y, torch.zeros_like(weight_x))
    image_index = torch.arange(batch, device=uv_px.device)[:, None, None]
    flat = torch.where(inside, (image_index * height_px + row) * width_px + column, 0).long()
    flat = flat.reshape(-1)
    far = torch.finfo(depth_z.dtype).max
    depth_4 = depth_z[..., None].expand(batch, count, 4)
    # Only corners with a substantial share of the point occlude the points behind them.
    candidate = torch.where(weight > 0.1, depth_4, torch.full_like(depth_4, far)).reshape(-1)
    nearest = torch.full((batch * height_px * width_px,), far, device=uv_px.device)
    nearest = nearest.to(depth_z.dtype).scatter_reduce(0, flat, candidate, "amin")
    visible = depth_4.reshape(-1) <= nearest[flat] * (1 + SURFACE_THICKNESS)
    weight = torch.where(visible, weight.reshape(-1), torch.zeros_like(candidate))
    samples = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
    channels = samples.shape[-1]
    samples = samples[:, :, None, :].expand(batch, count, 4, channels).reshape(-1, channels)
    sums = torch.zeros(batch * height_px * width_px, channels, device=values.device)
    sums = sums.to(values.dtype).index_add_(0, flat, samples * weight[:, None])
    total = rearrange(sums, "(b h w) c -> b c h w", b=batch, h=height_px)
    validity = (total[:, -1:] > 0.15).to(values.dtype)
    image = total[:, :-1] / total[:, -1:].clamp_min(1e-6) * validity
    return fill_holes(image, validity), validity


def fill_holes(
    image: Float[Tensor, "b c h w"], validity: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    """Fill where validity is 0 with a smooth continuation of the rest (push-pull pyramid).

    An image without one valid pixel becomes mid-grey.
    """
    if max(image.shape[-2:]) < 2:
        return torch.where(validity > 0, image, torch.full_like(image, 0.5))
    coarse_weight = F.avg_pool2d(validity, 2, ceil_mode=True)
    coarse = F.avg_pool2d(image * validity, 2, ceil_mode=True) / coarse_weight.clamp_min(1e-6)
    coarse = fill_holes(coarse, (coarse_weight > 0).to(image.dtype))
    pulled = F.interpolate(coarse, image.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(validity > 0, image, pulled)


def continue_image(
    image: Float[Tensor, "b c h w"],
    validity: Float[Tensor, "b 1 h w"],
    depth_z: Float[Tensor, "b h w"],
) -> Float[Tensor, "b c h w"]:
    """Fill where validity is 0 with the mean of the nearest valid pixel and a reflection.

    Disocclusions show the background: of two surfaces at a hole the farther is continued, unless it
    is much farther away in the image. Known content is reflected at the border of the hole, which
    preserves its texture, where the nearest pixel alone leaves streaks. The mean is closer to the
    truth than either (docs/log.md). An image without one valid pixel becomes mid-grey.
    """
    height_px, width_px = image.shape[-2:]
    known = validity > 0
    effort = depth_z.clamp_min(1e-6) ** -BEHIND
    nearest_row, nearest_column = _nearest_known(validity, effort)
    nearest = mirrored = _pixels(image, nearest_row, nearest_column)
    row, column = _grid(image)
    found = known
    for share in MIRRORED:
        inner_row = (nearest_row + share * (nearest_row - row)).round()
        inner_column = (nearest_column + share * (nearest_column - column)).round()
        inside = (inner_row >= 0) & (inner_row < height_px)
        inside &= (inner_column >= 0) & (inner_column < width_px)
        takes = inside[:, None] & (_pixels(validity, inner_row, inner_column) > 0) & ~found
        mirrored = torch.where(takes, _pixels(image, inner_row, inner_column), mirrored)
        found = found | takes
    filled = torch.where(known, image, 0.5 * (nearest + mirrored))
    return _or_grey(filled, known)


def fill_nearest(
    image: Float[Tensor, "b c h w"], validity: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    """Fill where validity is 0 with the nearest valid pixel.

    An image without one valid pixel becomes mid-grey.
    """
    return _or_grey(_pixels(image, *_nearest_known(validity)), validity > 0)


def _nearest_known(
    validity: Float[Tensor, "b 1 h w"], effort: Float[Tensor, "b h w"] | None = None
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Return row and column of the nearest valid pixel, by jump flooding (Rong and Tan, 2006).

    Each pixel holds its best seed so far and compares it with the seeds of its eight neighbours at
    a reach that halves from pass to pass; results are exact but for rare near ties. With `effort`,
    the squared distance to a pixel is multiplied by the pixel's effort.
    """
    height_px, width_px = validity.shape[-2:]
    row, column = _grid(validity)
    known = validity[:, 0] > 0
    # Seeds: a valid pixel is its own; the others start with a point farther than any pixel.
    away = 4.0 * (height_px + width_px)
    seed_row = torch.where(known, row, away)
    seed_column = torch.where(known, column, away)
    seed_effort = torch.ones_like(seed_row) if effort is None else effort.to(seed_row.dtype)
    # The first reach is the largest power of two below the longer side.
    reach = 1 << (max(height_px, width_px) - 1).bit_length() - 1
    while reach >= 1:
        # Padded copies: a shifted window reads the seeds of the neighbours of all pixels at once.
        efforts = F.pad(seed_effort, (reach, reach, reach, reach), value=1.0)
        rows = F.pad(seed_row, (reach, reach, reach, reach), value=away)
        columns = F.pad(seed_column, (reach, reach, reach, reach), value=away)
        # (Effort-weighted) squared distance to the own seed, then to the seed of each neighbour.
        best = (seed_row - row).square_().add_((seed_column - column).square_()) * seed_effort
        for down in (0, reach, 2 * reach):
            for right in (0, reach, 2 * reach):
                if down == right == reach:
                    continue  # the pixel itself
                window = (..., slice(down, down + height_px), slice(right, right + width_px))
                squared = (rows[window] - row).square_()
                squared.add_((columns[window] - column).square_()).mul_(efforts[window])
                nearer = squared < best
                best = torch.minimum(best, squared)
                seed_row = torch.where(nearer, rows[window], seed_row)
                seed_column = torch.where(nearer, columns[window], seed_column)
                seed_effort = torch.where(nearer, efforts[window], seed_effort)
        reach //= 2
    return seed_row, seed_column


def _grid(image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "h 1"], Float[Tensor, " w"]]:
    """Return the rows and columns of pixels; floats are exact here, and faster on a CPU."""
    height_px, width_px = image.shape[-2:]
    row = torch.arange(height_px, device=image.device, dtype=torch.float32)[:, None]
    return row, torch.arange(width_px, device=image.device, dtype=torch.float32)


def _pixels(
    image: Float[Tensor, "b c h w"], row: Float[Tensor, "b h w"], column: Float[Tensor, "b h w"]
) -> Float[Tensor, "b c h w"]:
    """Return the pixels of these rows and columns, those of the border where they lie outside."""
    height_px, width_px = image.shape[-2:]
    flat = row.clamp(0, height_px - 1) * width_px + column.clamp(0, width_px - 1)
    flat = flat.long().flatten(1)[:, None].expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, flat).view_as(image)


def _or_grey(
    image: Float[Tensor, "b c h w"], known: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    return torch.where(known.flatten(1).any(1)[:, None, None, None], image, 0.5)


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points on the surfaces that views have seen."""

    position: Float[Tensor, "b n 3"]
    """World, scene units."""
    normal: Float[Tensor, "b n 3"]
    """Unit normals on the side that was seen."""
    color: Float[Tensor, "b n 3"]
    known: Bool[Tensor, "b n"]
    """False where the view had no depth."""

    def faces(self, camera: Camera) -> Bool[Tensor, "b n"]:
        """Return which points are known and show `camera` the side that was seen."""
        towards = F.normalize(camera.position[..., None, :] - self.position, dim=-1)
        return self.known & ((self.normal * towards).sum(-1) > BACK_FACING)


def join_points(clouds: Sequence[SurfacePoints]) -> SurfacePoints:
    """Return one cloud that holds the points of all."""
    return SurfacePoints(
        torch.cat([cloud.position for cloud in clouds], dim=1),
        torch.cat([cloud.normal for cloud in clouds], dim=1),
        torch.cat([cloud.color for cloud in clouds], dim=1),
        torch.cat([cloud.known for cloud in clouds], dim=1),
    )


def surface_points(view: View, supersampling: int = 2) -> SurfacePoints:
    """Return points on the surfaces of views with depth, several to a pixel, none between surfaces.

    Args:
        view: b views with depth (0 = unknown), scene units.
        supersampling: Points per pixel along each axis.
    """
    if view.depth_z is None:
        raise ValueError("the view has no depth: its surfaces are not known")
    size = (view.depth_z.shape[-2] * supersampling, view.depth_z.shape[-1] * supersampling)
    depth = view.depth_z[:, None]
    nearest = F.interpolate(depth, size, mode="nearest")
    smooth = F.interpolate(depth, size, mode="bilinear", align_corners=False)
    lowest = -F.max_pool2d(-depth, 3, stride=1, padding=1)
    highest = F.max_pool2d(depth, 3, stride=1, padding=1)
    one_surface = (highest < lowest * EDGE_RATIO).to(depth.dtype)
    one_surface = F.interpolate(one_surface, size, mode="nearest")
    depth = torch.where(one_surface > 0, smooth, nearest)[:, 0]
    colors = F.interpolate(view.image, size, mode="bilinear", align_corners=False)
    normal = _normals(unproject_depth(view.depth_z, view.camera), view.camera)
    normal = F.interpolate(rearrange(normal, "b h w c -> b c h w"), size, mode="nearest")
    return SurfacePoints(
        rearrange(unproject_depth(depth, view.camera), "b h w c -> b (h w) c"),
        rearrange(normal, "b c h w -> b (h w) c"),
        rearrange(colors, "b c h w -> b (h w) c"),
        rearrange(nearest[:, 0] > 0, "b h w -> b (h w)"),
    )


def _normals(points: Float[Tensor, "b h w 3"], camera: Camera) -> Float[Tensor, "b h w 3"]:
    """Return unit normals of a grid of points, on the side of the camera."""
    padded = rearrange(points, "b h w c -> b c h w")
    padded = rearrange(F.pad(padded, (1, 1, 1, 1), mode="replicate"), "b c h w -> b h w c")
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    normal = F.normalize(torch.linalg.cross(down, across), dim=-1)
    towards = camera.position[:, None, None] - points
    return normal * (normal * towards).sum(-1, keepdim=True).sign()
