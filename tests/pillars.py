"""A photograph between walls whose edges are vertical in the world."""

import math

import torch

SIZE_PX = (240, 320)
FOCAL_PX = 260.0


def pillars(tilt_deg: float, roll_deg: float = 0.0) -> torch.Tensor:
    """Return what a tilted camera sees between walls whose colour changes with azimuth only."""
    height_px, width_px = SIZE_PX
    v, u = torch.meshgrid(
        torch.arange(height_px) + 0.5 - height_px / 2,
        torch.arange(width_px) + 0.5 - width_px / 2,
        indexing="ij",
    )
    roll, tilt = math.radians(roll_deg), math.radians(tilt_deg)
    x, y = u * math.cos(roll) - v * math.sin(roll), u * math.sin(roll) + v * math.cos(roll)
    forward = FOCAL_PX * math.cos(tilt) - y * math.sin(tilt)
    azimuth = torch.atan2(x, forward)
    # Edges over some two pixels, as a lens makes them: steps of whole pixels would be vertical.
    grey = 0.5 + 0.3 * torch.tanh(4 * torch.sin(40 * azimuth)) * (azimuth.abs() < 1.2)
    return grey.expand(3, -1, -1)
