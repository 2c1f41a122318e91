"""Tilt of a camera from the vertical lines of a photograph.

Walls, doors, posts and trees are vertical in the world. Their images point at one point, the
vertical vanishing point, and where it lies tells how far the camera looks down.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.view import resize_image
from zeronvs.photo.estimates import DEFAULT_ELEVATION_RAD, Estimate

SIDE_PX = 384
"""Longer side of the image in which edges are looked for."""
MAX_EDGES = 4000
"""The strongest edge pixels, of which no more than this many vote."""
LEAST_GRADIENT = 0.03
"""Weaker ones, in units of grey in [0, 1] a pixel, are noise."""
MAX_LEAN_RAD = math.radians(40.0)
"""Edges that lean more are no images of vertical lines."""
VOTE_RAD = math.radians(1.5)
"""Edges vote for directions that differ by about this from theirs."""
TILTS_RAD = torch.arange(-50.0, 75.1, 0.5).deg2rad()
ROLLS_RAD = torch.arange(-6.0, 6.1, 1.5).deg2rad()
LEAST_PEAK, PEAK_PER_RAD = 1.35, 1.0
"""Votes for the best tilt, over the median over all tilts: at least this much, and more the farther
the tilt is from the default, since textures vote for some tilt, too."""
FRAME = 0.03
"""How far from the image's borders, over its longer side, edges are ignored: frames of scans."""
SPREAD_RAD = math.radians(3.0)


def tilt_of_verticals(image: Float[Tensor, "3 h w"], focal_px: float) -> Estimate | None:
    """Estimate how far a camera looks down, radians, from vertical lines; None without clear ones.

    Edge pixels vote for the tilts and rolls in whose vertical vanishing point's direction they run.

    Args:
        image: Upright, RGB in [0, 1].
        focal_px: In its pixels; the principal point is its centre.
    """
    votes = vertical_votes(image, focal_px)
    if votes is None:
        return None
    best = int(votes.argmax())
    peak = float(votes[best] / votes.median())
    if peak < LEAST_PEAK + PEAK_PER_RAD * abs(float(TILTS_RAD[best]) - DEFAULT_ELEVATION_RAD):
        return None
    return Estimate(value=float(TILTS_RAD[best]), source="vertical lines", spread=SPREAD_RAD)


def vertical_votes(
    image: Float[Tensor, "3 h w"], focal_px: float
) -> Float[Tensor, " tilts"] | None:
    """Return the votes for each of `TILTS_RAD`, at its best roll; None without edges."""
    factor = min(1.0, SIDE_PX / max(image.shape[-2:]))
    height_px, width_px = (max(8, round(side * factor)) for side in image.shape[-2:])
    grey = resize_image(image, (height_px, width_px)).mean(0)
    # Derivatives over two pixels, smoothed across (Scharr 2000).
    across = torch.tensor([3.0, 10.0, 3.0]) / 32
    along = torch.tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(across, along), torch.outer(along, across)])
    dx, dy = torch.nn.functional.conv2d(grey[None, None], kernels[:, None])[0]
    strength = torch.hypot(dx, dy)
    # A vertical line's gradient is horizontal.
    strength = torch.where(dy.abs() < math.tan(MAX_LEAN_RAD) * dx.abs(), strength, 0.0)
    frame_px = 1 + round(FRAME * max(height_px, width_px))
    inside = torch.zeros_like(strength, dtype=torch.bool)
    inside[frame_px:-frame_px, frame_px:-frame_px] = True
    strength = torch.where(inside, strength, 0.0)
    rows, columns = torch.nonzero(strength > LEAST_GRADIENT, as_tuple=True)
    if len(rows) < 200:
        return None
    chosen = strength[rows, columns].argsort(descending=True)[:MAX_EDGES]
    rows, columns = rows[chosen], columns[chosen]
    # Strong edges do not count more without bound: one window frame is not the whole of a room.
    weight = strength[rows, columns].clamp_max(0.15)
    # The convolution took a pixel on each side; pixel centres lie at halves.
    x = (columns + 1.5 - 0.5 * width_px) / (focal_px * factor)
    y = (rows + 1.5 - 0.5 * height_px) / (focal_px * factor)
    lean = torch.atan(-dy[rows, columns] / dx[rows, columns])  # of the line, from straight down
    # Down in the camera's frame (x right, y down, z forward), whose image is the vanishing point.
    tilt, roll = TILTS_RAD[:, None, None], ROLLS_RAD[:, None]
    to_x = tilt.cos() * roll.sin() - x * tilt.sin()
    to_y = tilt.cos() * roll.cos() - y * tilt.sin()
    difference = torch.atan(to_x / to_y) - lean
    votes = (weight * torch.exp(-0.5 * (difference / VOTE_RAD) ** 2)).sum(-1)
    return votes.amax(1)
