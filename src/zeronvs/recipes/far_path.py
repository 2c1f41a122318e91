"""Choice of the camera path: an orbit about the subject, or a turn on the spot."""

import math
from typing import Literal, NamedTuple

from zeronvs.cameras.view import View
from zeronvs.cameras.warp import unproject

FarPath = Literal["orbit", "around"]

LOOKING_DOWN_RAD = math.radians(25)
"""Elevation from which a photograph shows something that lies or stands on a surface."""
STANDS_OUT = 1.1
"""How much nearer than the frame's upper half its middle is where something stands free."""
RISES_BEHIND = 0.2
"""How much higher than its middle the top of the frame is before a wall, scene units."""


class PathChoice(NamedTuple):
    """A path all round, and why."""

    name: FarPath
    reason: str


def suggest_path(view: View) -> PathChoice:
    """Suggest a path for a photograph with depth.

    An object on a table is orbited. In a room, a street or a landscape an orbit about what is ahead
    would lead through walls: there the camera stays and looks around.

    Args:
        view: One view at the canonical camera, with depth.
    """
    elevation_rad = float(view.camera.elevation_rad)
    degrees = f"{math.degrees(elevation_rad):.0f} degrees"
    if elevation_rad < LOOKING_DOWN_RAD:
        return PathChoice("around", f"looks level ({degrees} down): something encloses the camera")
    if view.depth_z is None:
        return PathChoice("orbit", f"looks down ({degrees})")
    rows, columns = view.depth_z.shape
    middle_rows = slice(rows // 3, 2 * rows // 3)
    middle = view.depth_z[middle_rows, columns // 3 : 2 * columns // 3].median()
    beyond = view.depth_z[: rows // 4].median()
    if float(beyond / middle) < STANDS_OUT:
        return PathChoice(
            "around", f"looks down ({degrees}), but nothing stands free in the middle"
        )
    heights = unproject(view)[..., 2]
    if float(heights[: rows // 6].median() - heights[middle_rows].median()) > RISES_BEHIND:
        return PathChoice("around", f"looks down ({degrees}), but something rises behind")
    return PathChoice("orbit", f"looks down ({degrees}) on something that stands free")
