"""Scene scale (the paper's q) of a photograph whose camera stands at distance 1 from the origin."""

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.photo.estimate import Estimate

DEFAULT_SCENE_SCALE = 0.7
"""The published setting for photographs without known depth."""
SCENE_SCALE_RANGE = (0.3, 1.0)
"""Bounds of the estimate: outside, the depth model rather than the scene is odd."""


def estimate_scene_scale(relative_depth: Float[Tensor, "h w"] | None = None) -> Estimate:
    """Estimate the scene units per model unit.

    In the model's unit the 20 % quantile of the depth is 1 (paper, viewer normalisation). The input
    camera stands at distance 1 from the origin of the scene. So that the origin lies on what was
    photographed, the median depth of the centre must be 1 scene unit: q = 1 / that median.

    Args:
        relative_depth: Depth of the centre square in the model's unit, if there is a depth model.
    """
    if relative_depth is not None:
        height_px, width_px = relative_depth.shape
        centre = relative_depth[
            height_px // 3 : height_px - height_px // 3, width_px // 3 : width_px - width_px // 3
        ]
        centre = centre[torch.isfinite(centre) & (centre > 0)]
        if centre.numel() > 0:
            raw = 1.0 / float(centre.median())
            value = min(max(raw, SCENE_SCALE_RANGE[0]), SCENE_SCALE_RANGE[1])
            bounded = "" if value == raw else f", bounded from {raw:.2f}"
            return Estimate(
                value=value, source=f"median depth of the centre{bounded}", spread=0.25 * value
            )
    return Estimate(value=DEFAULT_SCENE_SCALE, source="default (published)", spread=0.25)
