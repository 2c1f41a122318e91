"""Field of view of a photograph's centre square."""

import math

from zeronvs.photo.estimate import Estimate, averaged

DEFAULT_FOV_Y_RAD = math.radians(50.0)
"""A phone's main camera: 24 to 28 mm equivalent are 57 to 50 degrees along the shorter side."""
DEFAULT_SPREAD_RAD = math.radians(12.0)
EXIF_SPREAD_RAD = math.radians(2.0)
MIN_GUESS_SPREAD_RAD = math.radians(5.0)
"""A network that is surer than this of a photograph's lens is not believed."""


def estimate_fov_y(
    short_side_px: int,
    focal_px: float | None = None,
    focal_source: str | None = None,
    *,
    guess: Estimate | None = None,
) -> Estimate:
    """Estimate the field of view of the centre square in radians.

    A recorded lens is taken as it is. Else a network's guess, averaged with the default by their
    spreads. Else the default.

    Args:
        short_side_px: Side of the square in pixels of the photograph.
        focal_px: Focal length in the same pixels, where the camera recorded it.
        focal_source: What it was read from.
        guess: What a network makes of the picture, in radians.
    """
    if focal_px is not None:
        return Estimate(
            value=2.0 * math.atan(0.5 * short_side_px / focal_px),
            source=focal_source or "recorded focal length",
            spread=EXIF_SPREAD_RAD,
        )
    default = Estimate(
        value=DEFAULT_FOV_Y_RAD,
        source="default (no lens data in the file)",
        spread=DEFAULT_SPREAD_RAD,
    )
    if guess is None:
        return default
    guess = Estimate(
        value=guess.value,
        source=guess.source,
        spread=max(guess.spread, MIN_GUESS_SPREAD_RAD),
    )
    source = f"{guess.source} ({math.degrees(guess.value):.0f} degrees), averaged with the default"
    return averaged(guess, default, source)
