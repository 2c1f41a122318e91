"""Drawing Gaussian splats in plain torch, tile by tile, differentiable.

Each splat is projected to a 2D Gaussian (EWA splatting with a 0.3 px low-pass, as public viewers
do), listed in the tiles that it reaches, and composited front to back. What makes it fast without a
compiled kernel: the exponent of all splats of a tile at all its pixels is one matrix product with
the monomials of the pixel position, transmittance is another one with a triangle of ones, and tiles
that have become opaque are left out of the next round.

Symbols: n splats, v visible splats, p tile hits (pairs of a tile and a splat), k splats a round.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.splats import GaussianSplats

LOW_PASS_PX2 = 0.3
"""Added to the variances on the image plane, pixels squared (published 3DGS)."""
LARGEST_ALPHA = 0.99
SMALLEST_ALPHA = 1.0 / 255.0
"""What a splat adds to a pixel is cut at these, as published and as public viewers do."""
_OPAQUE = 1e-4  # transmittance below which a tile is finished
_NEVER = -1e4  # exponent of the splat that pads the lists: draws nothing
_WORK_ELEMENTS_CPU = 1 << 17  # splats * pixels of one step: temporaries stay in the cache
_WORK_ELEMENTS_GPU = 1 << 26


@dataclass(frozen=True, kw_only=True)
class RasterConfig:
    """How splats are drawn; the image depends on `near` and the low-pass only."""

    tile_px: int = 6
    """Side of a tile."""
    splats_per_round: int = 32
    """Splats of each tile composited at a time."""
    near: float = 0.01
    """Splats nearer to the image plane than this are not drawn, scene units."""
    low_pass_px2: float = LOW_PASS_PX2
    """Added to the variances on the image plane, pixels squared."""


@dataclass(frozen=True, eq=False)
class ProjectedSplats:
    """Splats on the image plane, nearest first."""

    index: Int64[Tensor, " v"]
    """Which splats these are."""
    uv_px: Float[Tensor, "v 2"]
    """Centres; u runs right, v down."""
    conic: Float[Tensor, "v 3"]
    """Inverse covariance (uu, uv, vv), per pixel squared."""
    half_size_px: Float[Tensor, "v 2"]
    """Half the sides of the box outside of which alpha is below `SMALLEST_ALPHA`."""
    depth_z: Float[Tensor, " v"]
    """Depth along the optical axis, scene units."""


def rasterize(
    splats: GaussianSplats,
    camera: Camera,
    background: Float[Tensor, "*#b 3"] | None = None,
    config: RasterConfig | None = None,
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Draw splats.

    Args:
        splats: What is drawn.
        camera: A batch of cameras (or one, which gives a batch of one).
        background: RGB behind the splats, one for all images or one each; None: black.
        config: Tile size and the like.

    Returns:
        RGB in [0, 1].
        Opacity in [0, 1].
        Mean depth along the optical axis of what is seen, scene units; 0 where nothing is.
    """
    config = config or RasterConfig()
    camera = camera.to(splats.means.device).batched()
    draw = _draw_compiled if _compiled(splats) else _draw
    images = [draw(splats, camera[item], config) for item in range(len(camera))]
    rgb, opacity, depth = (torch.stack(part) for part in zip(*images, strict=True))
    if background is not None:
        background = background.to(rgb.device).expand(len(camera), 3)
        rgb = rgb + (1.0 - opacity)[:, None] * background[:, :, None, None]
    return rgb, opacity, depth / opacity.clamp(min=1e-6)


def _compiled(splats: GaussianSplats) -> bool:
    """Return whether the compiled twin draws: on a CPU, where no gradient is wanted."""
    wants_gradient = torch.is_grad_enabled() and any(
        part.requires_grad for part in vars(splats).values()
    )
    return splats.means.device.type == "cpu" and not wants_gradient


def _draw_compiled(
    splats: GaussianSplats, camera: Camera, config: RasterConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw as `_draw` does, with compiled loops."""
    from zeronvs.scene import rasterizer_cpu  # loads a compiler: at the moment of use

    def array(part: Tensor) -> rasterizer_cpu.Floats:
        return part.detach().float().contiguous().numpy()

    canvas = rasterizer_cpu.draw(
        array(splats.means),
        array(splats.scales),
        array(splats.rotations),
        array(splats.opacities),
        array(splats.colors),
        array(camera.camera_to_world),
        array(camera.intrinsics_px),
        camera.image_size_px,
        config.near,
        config.low_pass_px2,
    )
    rgb, depth, opacity = torch.from_numpy(canvas).permute(2, 0, 1).split([3, 1, 1])
    return rgb, opacity[0], depth[0]


def project_splats(
    splats: GaussianSplats, camera: Camera, near: float, low_pass_px2: float = LOW_PASS_PX2
) -> ProjectedSplats:
    """Project splats to one camera's image plane, leaving out those that cannot be seen.

    EWA splatting (Zwicker et al. 2001) as in 3DGS: the covariance goes through the linearised
    projection, whose slope is held within 1.3 times the field of view, plus the low-pass.
    """
    world_to_camera = camera.camera_to_world[:3, :3].T
    x, y, z = ((splats.means - camera.position) @ world_to_camera.T).unbind(-1)
    depth_z = -z
    safe_z = depth_z.clamp(min=near)
    focal_u, focal_v = camera.intrinsics_px[0, 0], camera.intrinsics_px[1, 1]
    centre_u, centre_v = camera.intrinsics_px[0, 2], camera.intrinsics_px[1, 2]
    uv_px = torch.stack([focal_u * x / safe_z + centre_u, -focal_v * y / safe_z + centre_v], dim=-1)
    height_px, width_px = camera.image_size_px
    slope_u = (x / safe_z).clamp(-0.65 * width_px / focal_u, 0.65 * width_px / focal_u)
    slope_v = (-y / safe_z).clamp(-0.65 * height_px / focal_v, 0.65 * height_px / focal_v)
    zero = torch.zeros_like(safe_z)
    # Rows of the projection's Jacobian in OpenGL camera axes (z looks backwards, v runs down).
    row_u = torch.stack([focal_u / safe_z, zero, focal_u * slope_u / safe_z], dim=-1)
    row_v = torch.stack([zero, -focal_v / safe_z, focal_v * slope_v / safe_z], dim=-1)
    jacobian = torch.stack([row_u, row_v], dim=-2) @ world_to_camera
    covariance = jacobian @ splats.covariances @ jacobian.mT
    var_u = covariance[:, 0, 0] + low_pass_px2
    var_v = covariance[:, 1, 1] + low_pass_px2
    cov_uv = covariance[:, 0, 1]
    determinant = (var_u * var_v - cov_uv.square()).clamp(min=1e-12)
    conic = torch.stack([var_v, -cov_uv, var_u], dim=-1) / determinant[:, None]
    with torch.no_grad():
        reach = 2.0 * torch.log((splats.opacities / SMALLEST_ALPHA).clamp(min=1.0))
        half_size_px = (reach[:, None] * torch.stack([var_u, var_v], dim=-1)).sqrt()
        size_px = torch.tensor([width_px, height_px], dtype=uv_px.dtype, device=uv_px.device)
        inside = (uv_px + half_size_px > 0) & (uv_px - half_size_px < size_px)
        seen = inside.all(dim=-1) & (depth_z > near) & (reach > 0)
        index = seen.nonzero()[:, 0]
        index = index[depth_z[index].argsort(stable=True)]
    return ProjectedSplats(index, uv_px[index], conic[index], half_size_px[index], depth_z[index])


def _draw(
    splats: GaussianSplats, camera: Camera, config: RasterConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one image without background: premultiplied RGB, opacity, depth times opacity."""
    projected = project_splats(splats, camera, config.near, config.low_pass_px2)
    height_px, width_px = camera.image_size_px
    tile_px = config.tile_px
    tiles_down, tiles_across = math.ceil(height_px / tile_px), math.ceil(width_px / tile_px)
    hits, first, count = _tile_lists(projected, (tiles_down, tiles_across), tile_px)
    values = torch.cat([splats.colors[projected.index], projected.depth_z[:, None]], dim=-1)
    values = torch.cat([values, torch.ones_like(values[:, :1])], dim=-1)
    values = torch.cat([values, torch.zeros_like(values[:1])])  # the padding splat
    log_opacity = splats.opacities[projected.index].clamp(min=1e-12).log()
    canvas = _composite(projected, log_opacity, values, (hits, first, count), tiles_across, config)
    canvas = canvas.view(tiles_down, tiles_across, 5, tile_px, tile_px)
    canvas = canvas.permute(2, 0, 3, 1, 4).reshape(5, tiles_down * tile_px, -1)
    canvas = canvas[:, :height_px, :width_px]
    return canvas[:3], canvas[4], canvas[3]


@torch.no_grad()
def _tile_lists(
    projected: ProjectedSplats, tiles: tuple[int, int], tile_px: int
) -> tuple[Tensor, Tensor, Tensor]:
    """List for each tile the splats that reach it, nearest first.

    Returns:
        Rows of `projected`, tile after tile: " p".
        Where each tile's list starts: " tiles".
        How long it is: " tiles".
    """
    limits = torch.tensor([tiles[1], tiles[0]], device=projected.uv_px.device)
    low = ((projected.uv_px - projected.half_size_px) / tile_px).floor().long()
    high = ((projected.uv_px + projected.half_size_px) / tile_px).floor().long() + 1
    low = torch.minimum(low.clamp(min=0), limits)
    high = torch.minimum(high.clamp(min=0), limits)
    across, down = (high - low).clamp(min=0).unbind(-1)
    hits_of_splat = across * down
    rows = torch.repeat_interleave(hits_of_splat)
    start = hits_of_splat.cumsum(0) - hits_of_splat
    offset = torch.arange(rows.shape[0], device=rows.device) - start[rows]
    tile_u = low[rows, 0] + offset % across[rows]
    tile_v = low[rows, 1] + offset // across[rows]
    tile = tile_v * tiles[1] + tile_u
    order = tile.argsort(stable=True)  # rows are nearest first and stay so within a tile
    count = torch.bincount(tile, minlength=tiles[0] * tiles[1])
    return rows[order], count.cumsum(0) - count, count


def _composite(
    projected: ProjectedSplats,
    log_opacity: Tensor,
    values: Tensor,
    lists: tuple[Tensor, Tensor, Tensor],
    tiles_across: int,
    config: RasterConfig,
) -> Tensor:
    """Composite every tile's list; returns "tiles values pixels", weighted sums of `values`."""
    hits, first, count = lists
    tile_px, step = config.tile_px, config.splats_per_round
    pixels, device = tile_px**2, values.device
    monomials = _pixel_monomials(tile_px, values)
    before = torch.ones(step, step, dtype=values.dtype, device=device).tril(-1)
    canvas = values.new_zeros(count.shape[0], values.shape[1], pixels)
    log_clear = values.new_zeros(count.shape[0], pixels)
    on_cpu = device.type == "cpu"
    group = max(1, (_WORK_ELEMENTS_CPU if on_cpu else _WORK_ELEMENTS_GPU) // (step * pixels))
    padding = projected.uv_px.shape[0]
    slots = torch.arange(step, device=device)
    for start in range(0, int(count.max()), step):
        open_tiles = (count > start) & (log_clear.detach().amax(dim=1) > math.log(_OPAQUE))
        for tiles in open_tiles.nonzero()[:, 0].split(group):
            position = first[tiles, None] + start + slots
            valid = start + slots < count[tiles, None]
            rows = hits[position.clamp(max=hits.shape[0] - 1)].masked_fill(~valid, padding)
            exponent = _exponents(projected, log_opacity, rows, tiles, tiles_across, tile_px)
            alpha = torch.exp(exponent @ monomials).clamp(max=LARGEST_ALPHA)
            alpha = torch.where(alpha < SMALLEST_ALPHA, 0.0, alpha)
            log_pass = torch.log1p(-alpha)
            clear = before @ log_pass + log_clear[tiles, None]
            weights = alpha * clear.exp()
            canvas = canvas.index_add(0, tiles, values[rows].mT @ weights)
            log_clear = log_clear.index_add(0, tiles, log_pass.sum(dim=1))
    return canvas


def _pixel_monomials(tile_px: int, like: Tensor) -> Tensor:
    """Return 1, u, v, u^2, u v, v^2 at the pixels of a tile, from its centre: "6 pixels"."""
    along = torch.arange(tile_px, dtype=like.dtype, device=like.device) + 0.5 - tile_px / 2
    v, u = (grid.reshape(-1) for grid in torch.meshgrid(along, along, indexing="ij"))
    return torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v])


def _exponents(
    projected: ProjectedSplats,
    log_opacity: Tensor,
    rows: Tensor,
    tiles: Tensor,
    tiles_across: int,
    tile_px: int,
) -> Tensor:
    """Return log alpha as coefficients of the pixel monomials, "tiles k 6".

    log alpha = log opacity - 1/2 d^T conic d with d = pixel - centre, multiplied out.
    """
    padded = rows == projected.uv_px.shape[0]
    rows = rows.masked_fill(padded, 0)
    corner = torch.stack([tiles % tiles_across, tiles // tiles_across], dim=-1)
    u, v = (projected.uv_px[rows] - ((corner + 0.5) * tile_px)[:, None]).unbind(-1)
    uu, uv, vv = projected.conic[rows].unbind(-1)
    constant = log_opacity[rows] - 0.5 * (uu * u * u + vv * v * v) - uv * u * v
    coefficients = [
        constant.masked_fill(padded, _NEVER),
        uu * u + uv * v,
        vv * v + uv * u,
        -0.5 * uu,
        -uv,
        -0.5 * vv,
    ]
    coefficients[1:] = [item.masked_fill(padded, 0.0) for item in coefficients[1:]]
    return torch.stack(coefficients, dim=-1)
