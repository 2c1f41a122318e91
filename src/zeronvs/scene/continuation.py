"""What a photograph does not show, continued: around its frame, and behind its depth edges."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View, box_mean
from zeronvs.cameras.warp import fill_holes, unproject
from zeronvs.scene.depth_edges import grown, lowest, nearest_pixels, steps
from zeronvs.scene.subjects import (
    STANDS_OUT,
    SUBJECT_DEPTH,
    standing_free,
    standing_on_a_surface,
    subjects,
)
from zeronvs.scene.texture import continue_texture

CLEARLY_BEHIND = 0.96
"""What is hidden lies at most at this share of the disparity in front of it: none shows through."""
BESIDE = 0.06
"""How far what is hidden is carried on beside itself, over the image's longer side ..."""
ENVELOPE_PX = 8
"""... and half the window in which the farthest of it counts."""
LARGE_SUBJECT = 0.3
"""The place of a subject that takes more of the image than this is filled smoothly."""
FADE = 0.12
"""How far what the frame cuts of a subject fades beyond it, over the image's width."""
BLEND_RADIUS_PX = 4
"""Half the window whose mean colours are compared at the border of what was filled ..."""
BLEND_LIMIT = 0.1
"""... and the largest difference that is taken for a step of brightness, not for content."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """The photograph with a margin around it, at the resolution at which it is continued."""

    view: View
    """Image and depth, continued into the margin."""
    known: Bool[Tensor, "h w"]
    """Where the photograph is."""


def extend(
    view: View, *, side_px: int, margin: float, sideways: bool = True, motion: float, seed: int
) -> Canvas:
    """Continue a view beyond its frame, in image and depth.

    Args:
        view: One view with depth.
        side_px: Its longer side in the canvas, at most its own.
        margin: How far it is continued on each side, over its longer side.
        sideways: Whether also to the left and right, not only up and down.
        motion: How far cameras move, scene units: what stands free before an edge that opens is
            not repeated.
        seed: Seed of the texture's random search.
    """
    height_px, width_px = view.camera.image_size_px
    factor = min(1.0, side_px / max(height_px, width_px))
    small = view.resized(max(2, round(height_px * factor)), max(2, round(width_px * factor)))
    assert small.depth_z is not None
    margin_px = round(margin * max(small.camera.image_size_px))
    beside_px = margin_px if sideways else 0
    rows, columns = small.camera.image_size_px
    size_px = (rows + 2 * margin_px, columns + 2 * beside_px)
    intrinsics_px = small.camera.intrinsics_px.clone()
    intrinsics_px[0, 2] += beside_px
    intrinsics_px[1, 2] += margin_px
    camera = Camera(small.camera.camera_to_world, intrinsics_px, size_px)
    around = (beside_px, beside_px, margin_px, margin_px)
    known = F.pad(torch.ones(small.camera.image_size_px, dtype=torch.bool), around)
    image = F.pad(small.image[None], around, mode="replicate")[0]
    disparity = _continued_disparity(1.0 / small.depth_z, margin_px, beside_px)
    canvas = View(image, camera, 1.0 / disparity)
    free, _ = standing_free(canvas, motion)
    hole = ~known
    if sideways:
        # What stands on a surface that runs out is no context of it either.
        hole = hole | F.pad(standing_on_a_surface(small), around)
    filled = continue_texture(
        image, hole, source=known & ~free, guide=_guide(canvas, known), seed=seed
    )
    image = blended(torch.where(known, image, filled), ~known, disparity, disparity)
    return Canvas(View(image, camera, 1.0 / disparity), known)


def behind_edges(
    view: View, known: Bool[Tensor, "h w"], motion: float
) -> tuple[Bool[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return where something lies hidden behind the surface seen, and its disparity.

    From each depth edge, the surface behind it continues under the near side, as far as the motion
    uncovers: motion * focal length * difference of disparities.

    Args:
        view: One view with depth.
        known: Edges are looked for inside this.
        motion: How far the camera moves, scene units.
    """
    assert view.depth_z is not None
    disparity, focal_px = 1.0 / view.depth_z, float(view.camera.intrinsics_px[0, 0])
    edge = steps(disparity, focal_px, motion) & known
    if not edge.any():
        return torch.zeros_like(known), disparity
    distance, row, column = nearest_pixels(edge)
    far = lowest(disparity, 4)[row, column]
    # What is nearer than the edge, as the ground in front of it, hides no more of the far side.
    near = torch.minimum(disparity, disparity[row, column])
    gap_px = motion * focal_px * (near - far)
    hidden = (distance <= gap_px + 3) & (gap_px > 1.5) & known
    return hidden, torch.minimum(_smoothed_behind(disparity, hidden, far), disparity)


def _continued_disparity(
    disparity: Float[Tensor, "h w"], margin_px: int, beside_px: int
) -> Float[Tensor, "rows columns"]:
    """Continue disparity around: to the sides and up as it is, down as a level ground goes on.

    The disparity of a plane is linear in the image.
    """
    if margin_px == 0:
        return disparity
    lowest_rows = max(2, disparity.shape[0] // 10)
    slope = disparity[-lowest_rows:].diff(dim=0).median().clamp_min(0)
    margins = (beside_px, beside_px, margin_px, margin_px)
    around = F.pad(disparity[None, None], margins, mode="replicate")[0, 0]
    down = torch.arange(1, margin_px + 1, dtype=disparity.dtype)[:, None]
    around[-margin_px:] += slope * down
    # Beyond the frame it grows smooth.
    smooth = box_mean(around[None], max(1, margin_px // 4))[0]
    known = F.pad(torch.ones_like(disparity), margins)
    share = box_mean(known[None], max(1, margin_px // 4))[0].mul(2).clamp(0, 1)
    return torch.where(known > 0, around, torch.lerp(smooth, around, share))


class Uncovered(NamedTuple):
    """What lies behind the depth edges of a canvas, and behind what stands free."""

    background: View
    """The canvas without what hides something."""
    hole: Bool[Tensor, "h w"]
    """Where it differs from the canvas."""
    surroundings: View
    """The canvas without its subjects (`subjects`)."""


def uncover(canvas: Canvas, motion: float, seed: int) -> Uncovered:
    """Return what lies behind the depth edges of a canvas, and behind what stands free."""
    view = canvas.view
    assert view.depth_z is not None
    everywhere = torch.ones_like(canvas.known)
    hidden, disparity = behind_edges(view, everywhere, motion)
    free, behind_free = standing_free(view, motion)
    disparity = torch.where(free, behind_free, disparity)
    subject = subjects(view, free, behind_free, motion)
    # Pixels at an edge mix both sides: they are neither kept nor copied.
    removed = grown(subject, 2)
    disparity = _from_beside(disparity, subject & ~free)
    hole, disparity = carried_on(1.0 / view.depth_z, hidden | free | subject, disparity)
    behind = view.with_depth(1.0 / disparity)
    assert behind.depth_z is not None
    guide = _guide(behind, everywhere)
    image = continue_texture(view.image, hole, guide=guide, seed=seed)
    image = blended(image, hole, 1.0 / view.depth_z, disparity)
    if float(removed.float().mean()) > LARGE_SUBJECT:
        # Too little is left to copy from: dark, flat patches would take all of it.
        smooth = fill_holes(view.image[None], (~removed)[None, None].float())[0]
        image = torch.where(removed, smooth, image)
    background = View(image, view.camera, behind.depth_z)
    faded = image + _faded_beside((view.image - image) * removed)
    surroundings = View(
        torch.where(removed, faded, view.image),
        view.camera,
        torch.where(removed, behind.depth_z, view.depth_z),
    )
    return Uncovered(background, hole, surroundings)


def _faded_beside(difference: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Return a difference of images at the left and right border, fading to 0 inwards.

    The surroundings are reflected there: a subject that the frame cuts fades beyond it.
    """
    across = torch.arange(difference.shape[2])
    from_border = torch.minimum(across, across.flip(0)).expand(difference.shape[1:])
    border, within = from_border < 2, from_border > FADE * difference.shape[2]
    return fill_holes((difference * border)[None], (border | within)[None, None].float())[0]


def carried_on(
    disparity: Float[Tensor, "h w"], hidden: Bool[Tensor, "h w"], behind: Float[Tensor, "h w"]
) -> tuple[Bool[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return what is to be filled, and the disparity behind the surface seen, without cracks.

    What is hidden goes on behind the near surface beside it: what is filled continues the far side
    alone, and cameras that move a little farther see no crack.

    Args:
        disparity: Of the surface seen.
        hidden: What lies behind it, as far as the motion uncovers it.
        behind: The disparity there.
    """
    if not bool(hidden.any()):
        return hidden, disparity
    distance, row, column = nearest_pixels(hidden)
    far = torch.where(hidden, behind, torch.minimum(behind[row, column], disparity))
    in_front = (distance <= BESIDE * max(hidden.shape)) & (far < STANDS_OUT * disparity)
    in_front &= SUBJECT_DEPTH * disparity < disparity[row, column]  # not the ground before it
    hole = grown(hidden, 2) | in_front
    # Were parts side by side each at a depth of its own, they would come apart.
    far = lowest(torch.where(hole, far, torch.inf), ENVELOPE_PX)
    clearly = CLEARLY_BEHIND * lowest(disparity, 2)
    smooth = torch.minimum(_smoothed_behind(disparity, hole, far), clearly)
    return hole, torch.where(hole, smooth, disparity)


def _smoothed_behind(
    disparity: Float[Tensor, "h w"], hidden: Bool[Tensor, "h w"], far: Float[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """Return the disparity of what is hidden, smoothed but never nearer; elsewhere that given."""
    smooth = torch.where(hidden, far, disparity)
    for _ in range(4):
        smooth = torch.where(hidden, torch.minimum(box_mean(smooth[None], 2)[0], far), smooth)
    return smooth


def blended(
    image: Float[Tensor, "3 h w"],
    hole: Bool[Tensor, "h w"],
    disparity: Float[Tensor, "h w"],
    behind: Float[Tensor, "h w"],
) -> Float[Tensor, "3 h w"]:
    """Return an image whose filled hole has no seam: the step at its border is spread over it.

    A smooth membrane through the differences of mean colours at the border is added to what was
    filled (seamless cloning; Perez et al., SIGGRAPH 2003). Where a near surface ends the hole, its
    colours are not those of what lies behind.

    Args:
        image: RGB in [0, 1], filled.
        hole: Where it was filled.
        disparity: Of what is seen.
        behind: The same with what lies behind in the hole.
    """
    layers = torch.cat([image, disparity[None]])
    inside, outside = hole[None].float(), (~hole)[None].float()
    share = box_mean(outside, BLEND_RADIUS_PX)
    beyond = box_mean(layers * outside, BLEND_RADIUS_PX) / share.clamp_min(1e-6)
    within = box_mean(image * inside, BLEND_RADIUS_PX) / box_mean(
        inside, BLEND_RADIUS_PX
    ).clamp_min(1e-6)
    border = hole & grown(~hole, 1) & (STANDS_OUT * beyond[3] < behind)
    if not bool(border.any()):
        return image
    step = (beyond[:3] - within).clamp(-BLEND_LIMIT, BLEND_LIMIT)
    membrane = fill_holes((step * border)[None], border[None, None].float())[0]
    return torch.where(hole, (image + membrane).clamp(0, 1), image)


def _from_beside(
    disparity: Float[Tensor, "h w"], hole: Bool[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """Return disparity whose hole has the smoothed values of the nearest pixels outside."""
    if not bool(hole.any()) or bool(hole.all()):
        return disparity
    _, row, column = nearest_pixels(~hole)
    filled = disparity[row, column]
    return torch.where(hole, box_mean(filled[None], max(1, disparity.shape[1] // 40))[0], disparity)


def _guide(view: View, known: Bool[Tensor, "h w"]) -> Float[Tensor, "2 h w"]:
    """Return elevation and disparity of every pixel: patches come from where both are alike.

    Both are scaled to [0, 0.5]: the guide is periodic (`continue_texture`).
    """
    assert view.depth_z is not None
    ray = F.normalize(unproject(view) - view.camera.position, dim=-1)
    elevation_rad = torch.asin(ray[..., 2].clamp(-1, 1))
    # What lies beyond the known range is like its end.
    parts = []
    for values, least in ((elevation_rad, 0.1), (-view.depth_z.log(), 2.0)):
        values, low, high = _within(values, known)
        parts.append(0.5 * (values - low) / (high - low).clamp_min(least))
    return torch.stack(parts)


def _within(
    values: Float[Tensor, "h w"], known: Bool[Tensor, "h w"]
) -> tuple[Float[Tensor, "h w"], Tensor, Tensor]:
    """Return values clamped to the range of the known ones, and that range."""
    low, high = values[known].amin(), values[known].amax()
    return values.clamp(low, high), low, high
