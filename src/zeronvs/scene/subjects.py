"""What a photograph is of: what stands free, what belongs to it, what stands on a surface."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage, spatial
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.view import View, box_mean
from zeronvs.cameras.warp import unproject
from zeronvs.scene.depth_edges import grown, steps

STANDS_OUT = 0.93
"""What stands free has at least this share less disparity behind it."""
SUBJECT_AREA = 0.05
"""What is not repeated all around takes at least this share of the image ..."""
SUBJECT_STANDS_OUT = 1.3
"""... and is this much nearer than what is behind it."""
SUBJECT_DEPTH = 0.8
"""What belongs to it has at least this share of its disparity."""
SUBJECT_GAP_PX = 6
"""Gaps in it up to twice this wide are closed."""
LEVEL = 0.75
"""A surface is level where its unit normal points up or down by more."""
RING = 0.8
"""A surface is fitted to what lies farther from the image's middle than this, at the most 1 ..."""
FIT_STEPS = 10
"""... in so many steps of reweighted least squares."""
ABOVE = 0.04
"""What stands on it is nearer by this share of its disparity."""
SHADOW = 0.03
"""How far around it, over the image's width, its shadow is taken for a part of it."""


def standing_free(view: View, motion: float) -> tuple[Bool[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return what stands out from what is beside it, and the disparity behind.

    A thing is nearer than what is to the left and to the right of it at the same height: a grey
    opening of disparity along rows, by half of the image, takes it away and leaves grounds, walls
    and what the frame cuts.
    """
    assert view.depth_z is not None
    disparity, columns = 1.0 / view.depth_z, view.depth_z.shape[1]
    width = columns // 2
    # What the frame cuts continues beyond it.
    padded = np.pad(disparity.numpy(), ((0, 0), (width, width)), mode="edge")
    opened = torch.from_numpy(ndimage.grey_opening(padded, size=(1, width))[:, width:-width])
    focal_px = float(view.camera.intrinsics_px[0, 0])
    free = (disparity - opened) * focal_px * motion > 2.0
    free &= opened < STANDS_OUT * disparity
    behind = box_mean(opened[None], 2)[0]
    return free, torch.where(free, behind, disparity)


def subjects(
    view: View,
    free: Bool[Tensor, "h w"],
    behind: Float[Tensor, "h w"],
    motion: float,
) -> Bool[Tensor, "h w"]:
    """Return what the photograph is of: what stands free, large and near, and what belongs to it.

    A head before a wall stands free; the shoulders below it span the frame and do not, but they
    are on the same surface. What is level, as a table or the ground, belongs to no subject.

    Args:
        view: One view with depth.
        free: Where something stands free (`standing_free`).
        behind: The disparity behind it.
        motion: How far the camera moves, scene units.
    """
    assert view.depth_z is not None
    disparity, focal_px = 1.0 / view.depth_z, float(view.camera.intrinsics_px[0, 0])
    upright = ~_level(view) & ~steps(disparity, focal_px, motion)
    labels = np.zeros(free.shape, np.int32)
    ndimage.label(free.numpy(), output=labels)
    found = torch.zeros_like(free)
    for label in range(1, int(labels.max()) + 1):
        thing = torch.from_numpy(labels == label)
        if float(thing.float().mean()) < SUBJECT_AREA:
            continue
        if float((disparity[thing] / behind[thing]).median()) < SUBJECT_STANDS_OUT:
            continue
        same = upright & (disparity > SUBJECT_DEPTH * disparity[thing].median())
        grown_thing = ndimage.binary_propagation(thing.numpy(), mask=(same | thing).numpy())
        found |= torch.from_numpy(grown_thing)
    # Dark or shiny parts, of which depth is rough, lie within the rest.
    gap_px = SUBJECT_GAP_PX
    padded = np.pad(found.numpy(), gap_px)  # a closing would open what touches the border
    closed = ndimage.binary_closing(padded, iterations=gap_px)[gap_px:-gap_px, gap_px:-gap_px]
    return torch.from_numpy(ndimage.binary_fill_holes(np.ascontiguousarray(closed)))


def standing_on_a_surface(view: View) -> Bool[Tensor, "h w"]:
    """Return the largest thing that stands on a surface: its convex hull, with some shadow.

    The disparity of a plane is affine in the image. It is fitted to the border of the image on the
    left, on the right and below (Cauchy's weights); the thing is nearer than that.

    Args:
        view: One view with depth, which looks down on something that stands free.
    """
    assert view.depth_z is not None
    disparity = 1.0 / view.depth_z
    rows, columns = disparity.shape
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"
    )
    border = (x.abs() > RING) | (y > RING)
    terms = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    weight = border.float()
    above = torch.zeros_like(disparity)
    for _ in range(FIT_STEPS):
        weighted = (terms * weight[..., None])[border], (disparity * weight)[border]
        plane = torch.linalg.lstsq(weighted[0], weighted[1][:, None]).solution[:, 0]
        above = disparity - terms @ plane
        spread = 1.5 * above[border].abs().median().clamp_min(1e-6)
        weight = 1 / (1 + (above / spread).square())
    labels = np.zeros(disparity.shape, np.int32)
    ndimage.label((above > ABOVE * disparity).numpy(), output=labels)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if sizes.max() < SUBJECT_AREA * labels.size:
        return torch.zeros_like(border)
    pixels = np.argwhere(labels == sizes.argmax())
    triangles = spatial.Delaunay(pixels[spatial.ConvexHull(pixels).vertices])
    inside = triangles.find_simplex(np.argwhere(np.ones_like(labels))) >= 0
    return grown(torch.from_numpy(inside.reshape(labels.shape)), round(SHADOW * columns))


def _level(view: View) -> Bool[Tensor, "h w"]:
    """Return where a surface is more level than upright, within 40 degrees or so."""
    assert view.depth_z is not None
    smooth = box_mean((1.0 / view.depth_z)[None], max(1, view.depth_z.shape[1] // 100))[0]
    points = unproject(view.with_depth(1.0 / smooth)).movedim(-1, 0)[None]
    points = F.pad(points, (1,) * 4, mode="replicate")[0]
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normal = F.normalize(torch.linalg.cross(across, down, dim=0), dim=0)
    return normal[2].abs() > LEVEL
