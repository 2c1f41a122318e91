"""What a view costs without a model: the input moved along its depth, its holes filled."""

from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import fill_holes, fill_nearest, forward_warp

WARP = "input warped, holes inpainted"
"""Holes are a smooth continuation (push-pull pyramid)."""
WARP_NEAREST = "input warped, nearest fill"
"""A hole takes the colour of the nearest known pixel. This leaves streaks that no person likes;
perceptual distances do, because they are sharp: the row says how much of a number is sharpness."""

WARP_MIRROR = "input warped, mirror fill"
"""A hole continues what is beside it (`continue_image`): what the built-in model starts from, so
the distance from this row to the model's says what its network adds."""


def warped_input(view: View, target: Camera) -> dict[str, Float[Tensor, "b 3 h w"]]:
    """Return the inputs moved along their depth into the targets, with each kind of filling."""
    images, validity = forward_warp(view, target)
    known = images * validity
    return {
        WARP: fill_holes(known, validity),
        WARP_NEAREST: fill_nearest(known, validity),
        WARP_MIRROR: images,
    }
