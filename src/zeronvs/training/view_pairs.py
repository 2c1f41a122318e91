"""Batches of pairs of views as the denoiser is trained on them, whatever source they come from."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.embedding import LEAST_SCALE, Representation
from zeronvs.cameras.scene_scale import align_disparity, fill_depth
from zeronvs.cameras.view import View
from zeronvs.protocols import GeometryEstimator
from zeronvs.shards.loader import PairBatch

NO_SCALE = (Representation.THREE_DOF, Representation.SIX_DOF)
"""Representations without a scene scale."""
VIEWER = Representation.SIX_DOF_VIEWER
MIN_KNOWN_PIXELS = 16
"""With fewer known pixels, a depth map does not determine scale and shift of an estimate."""


@dataclass(frozen=True, eq=False)
class ViewPairs:
    """n pairs of an input view and a target view of the same scene."""

    input_view: View
    """Input views, with dense depth where the model needs it."""
    target_view: View
    """Without depth."""
    scene_scale: Float[Tensor, " n"]
    """Scene units per model unit; NaN where a scene has no scale, so that its pair is ignored."""
    warped: tuple[Tensor, Tensor] | None = None
    """The input views as the targets see them, and where they are valid, if a loader process
    computed them already (see `forward_warp`)."""

    def __len__(self) -> int:
        return len(self.scene_scale)

    def to(self, device: torch.device | str) -> "ViewPairs":
        """Return the pairs with their tensors on `device`."""
        warped = None
        if self.warped is not None:
            warped = (self.warped[0].to(device), self.warped[1].to(device))
        return ViewPairs(
            self.input_view.to(device),
            self.target_view.to(device),
            self.scene_scale.to(device),
            warped,
        )


def pairs_of_shards(
    batch: PairBatch,
    representation: Representation,
    *,
    needs_depth: bool,
    geometry_estimator: GeometryEstimator | None = None,
) -> ViewPairs:
    """Convert a batch that was read from shards.

    Args:
        representation: Camera representation of the model, which determines the scene scale.
        geometry_estimator: Completes that depth.

    Raises:
        InputError: The pairs lack the scale or the depth altogether.
    """
    size = (int(batch.input_image.shape[-2]), int(batch.input_image.shape[-1]))
    image = batch.input_image.float() / 255
    camera = Camera.from_fov(batch.input_to_world, batch.fov_y_rad, size)
    target = Camera.from_fov(batch.target_to_world, batch.fov_y_rad, size)
    depth_z = complete_depth(batch, image, geometry_estimator) if needs_depth else None
    return ViewPairs(
        View(image, camera, depth_z),
        View(batch.target_image.float() / 255, target),
        pair_scales(batch, representation),
    )


def pair_scales(batch: PairBatch, representation: Representation) -> Float[Tensor, " n"]:
    """Return the scale of the representation for each pair, scene units per model unit.

    Returns:
        NaN where a scene has none: viewer and agg need depth.

    Raises:
        InputError: No pair has this scale.
    """
    if representation in NO_SCALE:
        return torch.ones_like(batch.fov_y_rad)
    scale = batch.scene_scale.get(representation.scaled_as)
    if scale is None:
        raise InputError(missing_scale(representation))
    if representation is Representation.SIX_DOF_AGG:
        scale = torch.nan_to_num(scale, nan=1.0)  # as published
    return torch.where(scale.isfinite(), scale.clamp_min(LEAST_SCALE), torch.nan)


def missing_scale(representation: Representation) -> str:
    """Return one line for pairs of which none has the scale of a representation."""
    return (
        f'the pairs lack the scale of representation "{representation}": their scenes have no '
        "depth. Convert them with depth, or train another representation, such as "
        'representation "6DoF+1, norm", which needs cameras only'
    )


def complete_depth(
    batch: PairBatch, image: Float[Tensor, "n 3 h w"], geometry_estimator: GeometryEstimator | None
) -> Float[Tensor, "n h w"]:
    """Return the dense depth of the input views, scene units.

    Known depth is kept and holes are filled with the estimate aligned to it in disparity (paper,
    A.1); without known depth, the estimate is scaled by the viewer's quantile.

    Raises:
        InputError: There is neither known depth nor a scale for the estimate.
    """
    known = batch.input_depth_z
    if geometry_estimator is None:
        if known is None:
            raise InputError(
                "this model warps the input view along its depth, which the pairs lack. Convert "
                "the scenes with depth"
            )
        return known
    estimate = geometry_estimator.estimate(image).scaled_depth(1.0)
    viewer = batch.scene_scale.get(VIEWER)
    scaled = None
    if viewer is not None:  # NaN scales are those of ignored pairs
        scale = torch.nan_to_num(viewer, nan=1.0).clamp_min(LEAST_SCALE)
        scaled = estimate * scale[:, None, None]
    if known is None:
        if scaled is None:
            raise InputError(
                "this model warps the input view and its scenes have neither depth nor a viewer "
                "scale. Convert the scenes with depth"
            )
        return scaled
    aligned = align_disparity(1 / estimate.clamp_min(1e-3), known)
    enough = (known != 0).flatten(1).sum(-1) >= MIN_KNOWN_PIXELS
    if scaled is not None:
        aligned = torch.where(enough[:, None, None], aligned, scaled)
    return fill_depth(known, aligned)
