"""What a photograph does not show, continued: around its frame, and behind its depth edges."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import fill_holes, unproject
from zeronvs.scene.depth_edges import box_mean, grown, lowest, nearest_pixels, steps
from zeronvs.scene.texture import continue_texture

CLEARLY_BEHIND = 0.96
"""What is hidden lies at most at this share of the disparity in front of it: none shows through."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """The photograph with a margin around it, at the resolution at which it is continued."""

    view: View
    """Image and depth, continued into the margin."""
    known: Bool[Tensor, "h w"]
    """Where the photograph is."""


def extend(view: View, *, side_px: int, margin: float, motion: float, seed: int) -> Canvas:
    """Continue a view beyond its frame, in image and depth.

    Args:
        view: One view with depth.
        side_px: Its longer side in the canvas, at most its own.
        margin: How far it is continued on each side, over its longer side.
        motion: How far cameras move, scene units: what stands free before an edge that opens is
            not repeated.
        seed: Of the texture's random search.
    """
    height_px, width_px = view.camera.image_size_px
    factor = min(1.0, side_px / max(height_px, width_px))
    small = view.resized(max(2, round(height_px * factor)), max(2, round(width_px * factor)))
    assert small.depth_z is not None
    margin_px = round(margin * max(small.camera.image_size_px))
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
    free, _ = standing_free(canvas, known, motion)
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


def uncover(canvas: Canvas, motion: float, seed: int) -> tuple[View, Bool[Tensor, "h w"]]:
    """Return what lies behind the depth edges of a canvas, and behind what stands free.

    Returns:
        The canvas without what hides something.
        Where it differs from the canvas.
    """
    view = canvas.view
    everywhere = torch.ones_like(canvas.known)
    hidden, disparity = behind_edges(view, everywhere, motion)
    free, behind_free = standing_free(view, everywhere, motion)
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


def _guide(view: View, known: Bool[Tensor, "h w"]) -> Float[Tensor, "2 h w"]:
    """Return elevation and disparity of every pixel: patches come from where both are alike."""
    assert view.depth_z is not None
    ray = F.normalize(unproject(view) - view.camera.position, dim=-1)
    elevation_rad = torch.asin(ray[..., 2].clamp(-1, 1))
    low, high = elevation_rad[known].amin(), elevation_rad[known].amax()
    elevation = elevation_rad.clamp(low, high) / (high - low).clamp_min(0.1)
    return torch.stack([elevation, -0.5 * view.depth_z.log()])
