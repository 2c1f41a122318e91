"""Mixed pixels at depth edges, separated into the two surfaces that they show.

Along the outline of a thing, pixels mix its colour with that of what lies behind it, and an edge of
the depth is off the image's by some pixels. Lifted as they are, they tear away as halos. Here each
pixel beside an edge is explained by the colours on both sides of it (Levoy's matting equation,
c = alpha * near + (1 - alpha) * far), and lies where its larger share is.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.view import View
from zeronvs.scene.depth_edges import grown, lowest, nearest_pixels, steps

BAND_PX = 6
"""How far from a depth edge pixels are looked at."""
LEAST_CONTRAST = 0.08
"""Sides whose colours differ by less tell nothing."""
MIXED = (0.12, 0.88)
"""A pixel whose alpha lies between is split in two, others belong to one side."""
FARTHEST_FROM_MIXTURES = 0.7
"""Colours farther from all mixtures of both sides, over their contrast, tell nothing either."""

LIKELIER = 3.0
"""Log-likelihood by which the colour of such a pixel belongs to one side rather than the other."""


@dataclass(frozen=True, eq=False)
class Matte:
    """A view whose outlines are separated."""

    view: View
    """The nearer surface at each pixel: its own colour and depth."""
    alpha: Float[Tensor, "h w"]
    """How much of each pixel it covers; 1 away from outlines."""
    behind: View
    """What lies behind it where alpha is below 1; elsewhere the same as `view`."""

    @property
    def mixed(self) -> Bool[Tensor, "h w"]:
        """Where two surfaces share a pixel."""
        return self.alpha < 1


def separate_outlines(view: View, motion: float) -> Matte:
    """Separate the pixels beside depth edges into near and far colours.

    Args:
        view: One view with depth, its edges within a few pixels of the image's.
        motion: How far cameras move, scene units: what counts as an edge.
    """
    from zeronvs.scene import matting_loops  # loads a compiler: at the moment of use

    assert view.depth_z is not None
    disparity, focal_px = 1.0 / view.depth_z, float(view.camera.intrinsics_px[0, 0])
    alpha = torch.ones_like(disparity)
    edge = steps(disparity, focal_px, motion)
    if not edge.any():
        return Matte(view, alpha, view)
    band = grown(edge, BAND_PX)
    _, row, column = nearest_pixels(edge)
    middle = 0.5 * (disparity + lowest(disparity, 2))[row, column]
    rows, columns = torch.nonzero(band, as_tuple=True)
    found = torch.from_numpy(
        matting_loops.explain(
            view.image.permute(1, 2, 0).contiguous().numpy(),
            disparity.contiguous().numpy(),
            band.numpy(),
            middle.numpy(),
            rows.numpy(),
            columns.numpy(),
        )
    )
    contrast, distance = found[:, 1], found[:, 2]
    share = (disparity > middle).float()
    usable = (contrast > LEAST_CONTRAST) & (distance < FARTHEST_FROM_MIXTURES * contrast)
    likely = torch.where(
        found[:, 11].abs() > LIKELIER, (found[:, 11] > 0).float(), share[rows, columns]
    )
    share[rows, columns] = torch.where(usable, found[:, 0], likely)
    # A single pixel that looks like the other side is texture, not an outline.
    share = _median(share)[rows, columns]
    mixed = usable & (share > MIXED[0]) & (share < MIXED[1])
    share = torch.where(mixed, share, (share > 0.5).float())
    own = view.image[:, rows, columns]
    front, back = view.image.clone(), view.image.clone()
    front[:, rows, columns] = torch.where(mixed, found[:, 3:6].T, own)
    back[:, rows, columns] = torch.where(mixed, found[:, 6:9].T, own)
    near, far = found[:, 9], found[:, 10]
    one_sided = (near == 0) | (far == 0)
    kept = disparity[rows, columns]
    front_disparity, back_disparity = disparity.clone(), disparity.clone()
    front_disparity[rows, columns] = torch.where(one_sided, kept, torch.where(share > 0, near, far))
    back_disparity[rows, columns] = torch.where(one_sided, kept, torch.where(share < 1, far, near))
    alpha[rows, columns] = torch.where(mixed, share, 1.0)
    return Matte(
        View(front, view.camera, 1.0 / front_disparity),
        alpha,
        View(back, view.camera, 1.0 / back_disparity),
    )


def _median(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return the median of 3 x 3 pixels."""
    padded = F.pad(values[None, None], (1, 1, 1, 1), mode="replicate")
    return F.unfold(padded, 3)[0].median(0).values.view(values.shape)
