"""A photograph with depth, lifted to Gaussian splats: what a preview is made of.

    front     every pixel of the photograph, on its surface; fewer where nothing changes
    hidden    behind depth edges, and behind what stands free, what lies behind continues
    margin    above and below the frame, the image continues; beside it, too, where nothing encloses
    surround  all the way round the photographer, on the sphere: the image reflected at its sides

Only the front shows what was photographed; the rest continues its texture (`texture`).
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import project
from zeronvs.scene.continuation import Canvas, extend, uncover
from zeronvs.scene.depth_edges import (
    grown,
    lowest,
    refine_depth,
)
from zeronvs.scene.matting import Matte, separate_outlines
from zeronvs.scene.rasterizer import rasterize
from zeronvs.scene.surface_splats import alike_blocks, surface_splats
from zeronvs.scene.surround import surround_splats
from zeronvs.splats import GaussianSplats


@dataclass(frozen=True, kw_only=True)
class LiftConfig:
    """Settings of lifting a view."""

    refine_depth: bool = True
    """Whether depth was predicted, so that its edges are to follow the image's; not if measured."""
    motion: float = 0.3
    """How far cameras move without seeing behind the hidden layer, scene units."""
    margin: float = 0.2
    """How far its texture continues beyond its frame, over its longer side: up and down, and to the
    sides where nothing encloses the camera (otherwise it is reflected there)."""
    fill_side_px: int = 384
    """Longer side of the photograph at which what is not seen is continued."""
    surround_width_px: int = 1600
    """Width of the panorama around the photographer."""
    splat_sigma_px: float = 0.35
    """Standard deviation of a pixel's splat."""
    color_steps: int = 7
    """Corrections of the front's colours by what its own camera sees of it."""


def lift_view(
    view: View,
    config: LiftConfig | None = None,
    *,
    enclosed: bool = True,
    seed: int = 0,
    progress: Progress = silent,
) -> GaussianSplats:
    """Lift one view with depth to splats all around it.

    Args:
        view: One view with depth everywhere, scene units.
        config: Settings.
        enclosed: Whether the photographer stands in a room, a street or a landscape, which goes on
            all around; otherwise what is seen lies on a surface that runs out.
        seed: Seed of the texture's random search.
        progress: Called after each layer.
    """
    config = config or LiftConfig()
    report = _Reports(progress, 5)
    view = view.to("cpu")
    view = refine_depth(view) if config.refine_depth else view
    report()
    matte = separate_outlines(view, config.motion)
    view = View(view.image, view.camera, matte.view.depth_z)
    front = front_splats(matte, config.splat_sigma_px)
    report()
    canvas = extend(
        view,
        side_px=config.fill_side_px,
        margin=config.margin,
        sideways=not enclosed,
        motion=config.motion,
        seed=seed,
    )
    report()
    background, hidden, surroundings = uncover(canvas, config.motion, seed + 1)
    layers = [
        front,
        surface_splats(background, hidden, HIDDEN_SIGMA_PX),
        _margin_splats(canvas),
        surround_splats(
            surroundings,
            config.surround_width_px,
            enclosed=enclosed,
            behind=background,
            cracks=grown(hidden, CRACK_PX),
        ),
    ]
    report()
    splats = GaussianSplats.cat(layers)
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


FILL_SIGMA_PX = 0.6
"""Standard deviation of splats of what is not seen, in pixels of the canvas."""
HIDDEN_SIGMA_PX = 0.9
"""The same of what is hidden, which is seen from the side."""
BLOCK_SIGMA_PX = 0.75
"""Standard deviation of splats that stand for several pixels, over their side."""
RIM_PX = 2
"""How far the margin reaches under the image, pixels of the canvas ..."""
RIM_BEHIND = 1.02
"""... and its depth there over the image's."""
CRACK_PX = 6
"""How far beside hidden surfaces a backdrop stands, pixels of the canvas."""
EDGE_RATIO = 1.05
"""Depths within two pixels that differ by more belong to different surfaces."""
FAR_COLOR_LIMIT = 0.03
"""Colours are corrected by at most this on the far side of depth edges."""


def front_splats(matte: Matte, sigma_px: float) -> GaussianSplats:
    """Return a splat for every pixel of a view with depth; one for 4 or 16 where they are alike.

    Pixels that mix two surfaces get a splat on each.
    """
    view = matte.view
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
        opacity = 0.99 * matte.alpha if block == 1 else None
        parts.append(
            surface_splats(small, alike, sigma_px if block == 1 else BLOCK_SIGMA_PX, opacity)
        )
    parts.append(surface_splats(matte.behind, matte.mixed, sigma_px))
    return GaussianSplats.cat(parts)


def _margin_splats(canvas: Canvas) -> GaussianSplats:
    """Return splats of what continues the image; a rim of it lies behind the image: no crack."""
    assert canvas.view.depth_z is not None
    depth_z = torch.where(canvas.known, canvas.view.depth_z * RIM_BEHIND, canvas.view.depth_z)
    keep = grown(~canvas.known, RIM_PX)
    return surface_splats(canvas.view.with_depth(depth_z), keep, FILL_SIGMA_PX)


def match_colors(splats: GaussianSplats, front: int, view: View, count: int) -> GaussianSplats:
    """Correct the colours of the first `front` splats so that their camera sees the photograph.

    Splats overlap, which blurs: what is missing at each splat's pixel is added to it, `count` times
    (Van Cittert's deconvolution). On the far side of depth edges the colours stay nearly as they
    are: nearer splats cover them in part, and what is added for one camera is a rim for the next.
    """
    assert view.depth_z is not None
    first, colors = splats.colors[:front], splats.colors.clone()
    height_px, width_px = view.camera.image_size_px
    uv_px, depth_z = project(splats.means[:front], view.camera)
    size = torch.tensor([width_px, height_px], dtype=uv_px.dtype)
    grid = (uv_px / size * 2 - 1)[None, None]
    nearest = F.grid_sample(
        lowest(view.depth_z, 2)[None, None], grid, mode="nearest", align_corners=False
    )[0, 0, 0]
    limit = torch.where(depth_z > nearest * EDGE_RATIO, FAR_COLOR_LIMIT, 1.0)[:, None]
    for _ in range(count):
        rendered, _, _ = rasterize(splats.with_colors(colors), view.camera)
        missing = F.grid_sample(view.image[None] - rendered, grid, align_corners=False)
        change = colors[:front] + missing[0, :, 0].T - first
        colors[:front] = (first + change.clamp(-limit, limit)).clamp(0, 1)
    return splats.with_colors(colors)
