"""A textured triangle mesh of what a scene shows to some cameras, as a .glb file.

The depth that a camera sees is a grid of triangles, cut where the depth jumps, with the image that
the camera sees on it. The cameras take turns: what an earlier one shows already is left out of a
later one. Where nothing bends, one cell of the grid stands for 4, 16 or 64.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import HealthError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import project, unproject_depth
from zeronvs.formats.glb import TexturedMesh, write_glb
from zeronvs.protocols import Scene
from zeronvs.scene.depth_edges import grown, sharpen_steps

PHOTO_SIDE_PX = 1024
"""Longer side of the photograph as a texture, at most."""
WIDER = 1.8
"""How much more the second camera sees, over the photograph's: the margin around its frame."""
SOLID = 0.5
"""Opacity from which a surface is seen."""
JUMP, CERTAIN_JUMP = 0.03, 0.25
"""Neighbours whose disparities differ by this share may be, or are, different surfaces."""
NEAR_SIDE = 0.1
"""Corners of a cut cell whose disparity is less by up to this share are on the nearer surface."""
RAMP = 1.1
"""Ratio of disparities from which a pixel between two surfaces is moved to one of them."""
SAME_SURFACE = 0.015
"""What lies behind what an earlier camera shows by up to this share of its depth is the same."""
BEHIND = 0.004
"""Share of its depth by which a later camera's mesh lies behind the surface that it sees."""
FLAT = 0.003
"""Error of disparity up to which cells are joined."""
LEVEL = 0.05
"""Difference of disparity up to which cells are joined: textures are stretched evenly."""
BLOCK_SIDES = (8, 4, 2)
_REMEDY = "Train longer, look at the renders, or use cameras that face the scene."


def write_mesh(
    path: Path,
    scene: Scene,
    cameras: Camera,
    *,
    photo: View | None = None,
    resolution: int = 384,
    shift: Float[Tensor, "3"] | None = None,
    progress: Progress = silent,
) -> None:
    """Write what some cameras see of a scene as .glb, whole or not at all.

    Args:
        path: Where to, with suffix .glb.
        scene: The scene.
        cameras: A batch that together sees what matters; their renderings are the textures.
        photo: The view that the scene was made of: seen first, and with its own pixels. None: the
            first of the cameras is.
        resolution: Cells along the longer side of the photo's grid; half as many for the cameras.
        shift: Added to every vertex; None: nothing.
        progress: Called for each camera.

    Raises:
        HealthError: The cameras see no surface.
    """
    meshes = scene_meshes(scene, cameras, photo=photo, resolution=resolution, progress=progress)
    if shift is not None:
        meshes = [replace(mesh, vertices=mesh.vertices + shift) for mesh in meshes]
    write_glb(path, meshes)


@torch.no_grad()
def scene_meshes(
    scene: Scene,
    cameras: Camera,
    *,
    photo: View | None = None,
    resolution: int = 384,
    progress: Progress = silent,
) -> list[TexturedMesh]:
    """Return a mesh for each camera that sees something new (see `write_mesh`).

    Raises:
        HealthError: The cameras see no surface.
    """
    grids: list[DepthGrid] = []
    meshes: list[TexturedMesh] = []
    count = len(cameras) + (2 if photo is not None else 0)
    for texture, grid in _looks(scene, cameras, photo, resolution):
        wanted, points = grid.seen.clone(), grid.cell_points()
        for earlier in grids:
            wanted[wanted.clone()] = ~earlier.shows(points[wanted])
        # Meshes overlap by a cell, so that no gap shows between them.
        wanted |= grown(wanted, 1) & grid.seen & ~grid.cut
        grids.append(grid)
        if wanted.any():
            # Where meshes overlap, the earlier one is seen.
            meshes.append(_mesh(grid, wanted, texture, 1.0 if len(grids) == 1 else 1 + BEHIND))
        progress(ProgressEvent("look at the surface", len(grids), count))
    if not meshes:
        raise HealthError(f"No surface is seen to make a mesh of. {_REMEDY}")
    return meshes


def _looks(
    scene: Scene, cameras: Camera, photo: View | None, resolution: int
) -> "Iterator[tuple[Float[Tensor, '3 h w'], DepthGrid]]":
    """Yield texture and depth of each camera: the photo's, a wider one's, then from near to far."""
    half = max(2, resolution // 2)
    first = cameras[0] if photo is None else photo.camera.to("cpu")
    if photo is not None:
        size_px = max(first.image_size_px)
        fine = first.with_longer_side(min(PHOTO_SIDE_PX, size_px))
        texture = photo.to("cpu").resized(*fine.image_size_px).image
        yield texture, _seen_depth(scene, first.with_longer_side(min(resolution, size_px)))[1]
        wide = first.with_longer_side(max(cameras.image_size_px))
        intrinsics_px = wide.intrinsics_px.clone()
        intrinsics_px[[0, 1], [0, 1]] /= WIDER
        yield _seen_depth(scene, wide.with_intrinsics(intrinsics_px), half)
    away = (cameras.position - first.position.to(cameras.device)).norm(dim=-1)
    for index in away.argsort(stable=True):
        yield _seen_depth(scene, cameras[int(index)], half)


def _seen_depth(
    scene: Scene, camera: Camera, resolution: int | None = None
) -> tuple[Float[Tensor, "3 h w"], "DepthGrid"]:
    """Return image and depth of one camera; of the depth every so many pixels."""
    rendering = scene.render(camera.to(scene.device))
    opacity, depth_z = rendering.opacity[0].cpu(), rendering.depth_z[0].cpu()
    solid = (opacity > SOLID) & (depth_z > 0) & depth_z.isfinite()
    disparity = sharpen_steps(torch.where(solid, 1.0 / depth_z, 0.0), 1, RAMP)
    every = 1 if resolution is None else -(-max(camera.image_size_px) // resolution)
    # The camera whose pixel centres are every so many of these.
    intrinsics_px = camera.intrinsics_px.cpu().clone()
    intrinsics_px[:2] /= every
    intrinsics_px[:2, 2] += 0.5 - 0.5 / every
    disparity = disparity[::every, ::every]
    size_px = (disparity.shape[0], disparity.shape[1])
    sparse = Camera(camera.camera_to_world.cpu(), intrinsics_px, size_px)
    height_px, width_px = camera.image_size_px
    scale = torch.tensor([every / width_px, every / height_px])
    offset = torch.tensor([0.5 / width_px, 0.5 / height_px])
    return rendering.rgb[0].cpu(), DepthGrid(sparse, disparity, scale, offset)


@dataclass(frozen=True, eq=False)
class DepthGrid:
    """Depth at the pixel centres of a camera; a cell lies between four of them."""

    camera: Camera
    disparity: Float[Tensor, "h w"]
    """Inverse depth along the optical axis; 0 where nothing is seen."""
    uv_scale: Float[Tensor, "2"]
    uv_offset: Float[Tensor, "2"]
    """Column and row of a point, times the scale plus the offset, is its place in the texture."""

    @cached_property
    def seen(self) -> Bool[Tensor, "r c"]:
        """Cells all of whose corners are on a surface."""
        return self.corners.amin(0) > 0

    @cached_property
    def cut(self) -> Bool[Tensor, "r c"]:
        """Cells whose corners lie on different surfaces."""
        jump, steep = (
            across[:-1] | across[1:] | down[:, :-1] | down[:, 1:]
            for across, down in zip(
                _jumps(self.disparity), (part.T for part in _jumps(self.disparity.T)), strict=True
            )
        )
        return jump | (steep & grown(jump, 2))

    @cached_property
    def corners(self) -> Float[Tensor, "4 r c"]:
        """Return the disparities of a cell's corners: top left and right, bottom left and right."""
        d = self.disparity
        return torch.stack([d[:-1, :-1], d[:-1, 1:], d[1:, :-1], d[1:, 1:]])

    @cached_property
    def near_corners(self) -> Bool[Tensor, "4 r c"]:
        """Return which corners of a cell lie on the nearer surface; all where it is not cut."""
        corners = self.corners
        return ~self.cut | (corners >= (1 - NEAR_SIDE) * corners.amax(0))

    @cached_property
    def near_disparity(self) -> Float[Tensor, "r c"]:
        """Return the mean disparity of a cell, or of its nearer surface."""
        near = self.near_corners
        return (self.corners * near).sum(0) / near.sum(0)

    def cell_points(self) -> Float[Tensor, "r c 3"]:
        """Return the middle of each cell in the world."""
        rays = self.rays
        middle = 0.25 * (rays[:-1, :-1] + rays[:-1, 1:] + rays[1:, :-1] + rays[1:, 1:])
        return self.camera.position + middle / self.near_disparity.clamp_min(1e-6)[..., None]

    @cached_property
    def rays(self) -> Float[Tensor, "h w 3"]:
        """Return from the camera the points at depth 1."""
        return unproject_depth(torch.ones_like(self.disparity), self.camera) - self.camera.position

    def shows(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Return which points lie on the surface that is seen, or before it."""
        uv_px, depth_z = project(points, self.camera)
        rows, columns = self.disparity.shape
        size = torch.tensor([columns - 1, rows - 1])
        place = uv_px - 0.5
        inside = (depth_z > 0) & ((place >= 0) & (place < size)).all(-1)
        column, row = place.nan_to_num().floor().long().unbind(-1)
        cell = (row.clamp(0, rows - 2), column.clamp(0, columns - 2))
        grid = (place / size * 2 - 1)[None, None]
        surface = F.grid_sample(self.disparity[None, None], grid, align_corners=True)[0, 0, 0]
        surface = torch.where(self.cut[cell], self.near_disparity[cell], surface)
        return inside & self.seen[cell] & (1.0 / depth_z > surface * (1 - SAME_SURFACE))


def _jumps(
    disparity: Float[Tensor, "h w"],
) -> tuple[Bool[Tensor, "h v"], Bool[Tensor, "h v"]]:
    """Return where disparity jumps from one column to the next, and where it may.

    A plane has the same steps everywhere; a jump differs from the steps on both sides.
    """
    step = disparity.diff(dim=1)
    bend = F.pad(step.diff(dim=1).abs(), (1, 1), value=torch.inf)
    share = step.abs() / torch.maximum(disparity[:, 1:], disparity[:, :-1]).clamp_min(1e-9)
    alone = torch.minimum(bend[:, 1:], bend[:, :-1]) > 0.5 * step.abs()
    return ((share > JUMP) & alone) | (share > CERTAIN_JUMP), share > JUMP


def _mesh(
    grid: DepthGrid, wanted: Bool[Tensor, "r c"], texture: Float[Tensor, "3 h w"], stretch: float
) -> TexturedMesh:
    """Return the triangles of some cells, their depth stretched a little.

    A cell that is cut belongs to the nearer surface: seen from its own camera, no gap shows.
    """
    rows, columns = grid.disparity.shape
    faces = _surface_faces(grid.disparity, wanted & ~grid.cut)
    row, column = torch.nonzero(wanted & grid.cut, as_tuple=True)
    # Four points of its own for each cut cell, the farther ones moved to the nearer surface.
    place = torch.arange(rows * columns).view(rows, columns)
    corner = torch.stack(
        [place[row + down, column + right] for down, right in ((0, 0), (0, 1), (1, 0), (1, 1))], 1
    )
    near = grid.near_corners[:, row, column].T
    moved = torch.where(
        near, grid.corners[:, row, column].T, grid.near_disparity[row, column][:, None]
    )
    own = rows * columns + torch.arange(len(row) * 4).view(-1, 4)
    faces = torch.cat([faces, _two_faces(own)])
    place = torch.cat([place.flatten(), corner.flatten()])
    disparity = torch.cat([grid.disparity.flatten(), moved.flatten()])
    used, faces = torch.unique(faces, return_inverse=True)
    place, disparity = place[used], disparity[used]
    depth_z = stretch / disparity
    vertices = grid.camera.position + grid.rays.view(-1, 3)[place] * depth_z[:, None]
    uv = torch.stack([place % columns, place // columns], dim=-1) * grid.uv_scale + grid.uv_offset
    return TexturedMesh(vertices, faces, uv, texture)


def _two_faces(corner: Int64[Tensor, "n 4"]) -> Int64[Tensor, "m 3"]:
    """Return two triangles of the corners top left and right, bottom left and right."""
    return torch.cat([corner[:, [0, 2, 1]], corner[:, [1, 2, 3]]])


def _surface_faces(
    disparity: Float[Tensor, "h w"], wanted: Bool[Tensor, "r c"]
) -> Int64[Tensor, "f 3"]:
    """Return triangles of cells between points of a grid, fewer where the surface is flat.

    Blocks of cells are fans around their middle, through every point of their border that another
    block uses: there is no crack between large and small ones.
    """
    rows, columns = disparity.shape
    place = torch.arange(rows * columns).view(rows, columns)
    left, used = wanted.clone(), torch.zeros(rows * columns, dtype=torch.bool)
    borders: list[tuple[Tensor, Tensor]] = []
    for side in BLOCK_SIDES:
        if min(rows, columns) <= side:
            continue
        whole = left.unfold(0, side, side).unfold(1, side, side).all(-1).all(-1)
        whole &= _flat(disparity.unfold(0, side + 1, side).unfold(1, side + 1, side))
        row, column = (index * side for index in torch.nonzero(whole, as_tuple=True))
        step = torch.arange(side)
        across = torch.cat([step, torch.full_like(step, side), side - step, 0 * step])
        down = torch.cat([0 * step, step, torch.full_like(step, side), side - step])
        border = place[row[:, None] + down, column[:, None] + across]
        borders.append((place[row + side // 2, column + side // 2], border))
        used[border[:, ::side]] = True
        taken = whole.repeat_interleave(side, 0).repeat_interleave(side, 1)
        left[: taken.shape[0], : taken.shape[1]] &= ~taken
    row, column = torch.nonzero(left, as_tuple=True)
    top, bottom = place[row, column], place[row + 1, column]
    corner = torch.stack([top, top + 1, bottom, bottom + 1], dim=1)
    used[corner] = True
    return torch.cat([_two_faces(corner), *(_fans(*border, used) for border in borders)])


def _flat(disparity: Float[Tensor, "r c n n"]) -> Bool[Tensor, "r c"]:
    """Return which blocks of points lie in a plane that hardly runs away."""
    weight = torch.linspace(0, 1, disparity.shape[-1])
    top = torch.lerp(disparity[..., 0, :1], disparity[..., 0, -1:], weight)
    bottom = torch.lerp(disparity[..., -1, :1], disparity[..., -1, -1:], weight)
    plane = torch.lerp(top[..., None, :], bottom[..., None, :], weight[:, None])
    low, high = disparity.amin((-2, -1)), disparity.amax((-2, -1))
    error = (disparity - plane).abs().amax((-2, -1))
    return (error < FLAT * high) & (high - low < LEVEL * high)


def _fans(
    middle: Int64[Tensor, " n"], border: Int64[Tensor, "n m"], used: Bool[Tensor, " p"]
) -> Int64[Tensor, "f 3"]:
    """Return triangles around the middle of blocks through the used points of their borders."""
    on, after, following = used[border], border[:, 0], []
    for slot in reversed(range(border.shape[1])):
        following.append(after)
        after = torch.where(on[:, slot], border[:, slot], after)
    following = torch.stack(following[::-1], dim=1)
    faces = torch.stack([middle[:, None].expand_as(border), following, border], dim=-1)
    return faces[on]
