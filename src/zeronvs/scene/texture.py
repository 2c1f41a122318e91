"""Holes of an image filled by continuing its texture (PatchMatch, Barnes et al., SIGGRAPH 2009)."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

PATCH_RADIUS_PX = 3
GUIDE_WEIGHT = 1.0
"""Weight of the guide beside the likeness of patches."""


def continue_texture(
    image: Float[Tensor, "3 h w"],
    hole: Bool[Tensor, "h w"],
    *,
    source: Bool[Tensor, "h w"] | None = None,
    guide: Float[Tensor, "2 h w"] | None = None,
    seed: int = 0,
) -> Float[Tensor, "3 h w"]:
    """Fill a hole with patches of the rest of the image.

    Args:
        image: RGB in [0, 1]; its colours in the hole are not used.
        hole: What is filled.
        source: Where patches may come from; None: everywhere outside the hole.
        guide: Two coordinates of every pixel, in the hole too; patches whose coordinates are alike
            are preferred, e.g. from the same elevation or depth. They are periodic, made for
            lattices (libpatchmatch, `inpaint_regularity`): 0 and 1 are alike, 0 and 0.5 differ
            most, so what has an order belongs into [0, 0.5]. None: no preference.
        seed: Seed of the random search.

    Returns:
        The image with the hole filled, on the 8-bit grid there; mid-grey without any source.
    """
    from patchmatch import patch_match  # loads a shared library: at the moment of use

    source = ~hole if source is None else source & ~hole
    if not bool(hole.any()):
        return image
    if not bool(source.any()):
        return torch.where(hole, 0.5, image)
    patch_match.set_random_seed(seed)
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    excluded = _mask(~hole & ~source)
    if guide is None:
        filled = patch_match.inpaint(
            pixels, _mask(hole), global_mask=excluded, patch_size=PATCH_RADIUS_PX
        )
    else:
        coordinates = torch.zeros(*hole.shape, 3)
        coordinates[..., :2] = guide.permute(1, 2, 0)
        filled = patch_match.inpaint_regularity(
            pixels,
            _mask(hole),
            coordinates.numpy(),
            global_mask=excluded,
            patch_size=PATCH_RADIUS_PX,
            guide_weight=GUIDE_WEIGHT,
        )
    return torch.where(hole, torch.from_numpy(filled).permute(2, 0, 1).to(image) / 255.0, image)


def _mask(where: Bool[Tensor, "h w"]) -> NDArray[np.uint8]:
    return where.cpu().numpy().astype(np.uint8) * 255
