"""The camera representations of the paper (§3.1-3.3), which condition the diffusion model.

One function, `embed_cameras`, and one name per representation:

    3DoF            Zero-1-to-3's change of elevation, azimuth and radius                  4 numbers
    6DoF+1          relative pose and field of view, translations as they come            19 numbers
    6DoF+1, norm    translations in units of the cameras' mean distance to their centre   19 numbers
    6DoF+1, agg     ... in units of a near depth gathered over all views of the scene     19 numbers
    6DoF+1, viewer  ... in units of a near depth of the input view: the released model    19 numbers
    6DoF+1, metric  ... in metres; only in the published code                             19 numbers
    6DoF+1, MegaScenes  as viewer, with translations that are not squashed and the field of view
                    along the diagonal: fine-tunes by MegaScenes (arXiv 2406.11819)       19 numbers

The 19 numbers are the 4x4 matrix target_to_input, row by row (the constant last row included),
then f, sin f, cos f with f the field of view in radians. The scale that belongs to each is computed
in `zeronvs.cameras.scene_scale`.

Details missing from the paper, which weights trained by the published code depend on
(zeronvs_diffusion, ldm/data/common.py): the least scale, the clips, and the translation squash of
the viewer representation.
"""

import math
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.poses import relative_pose

LEAST_SCALE = 1e-2
"""Translations are never divided by less than this, scene units."""
CLIP = 20.0
"""Matrix entries of `6DoF+1` and `6DoF+1, agg` are clipped to +-this."""
AGGREGATE_SCALE_RANGE = (0.1, 100.0)
"""The scale of `6DoF+1, agg` is clipped to this range, scene units."""
SQUASH_KNEE = 10.0
"""Model units where the translation squash bends."""
SQUASH_SLOPE = 0.5
"""Slope of the translation squash at zero; it saturates at slope * knee = 5."""


class Representation(StrEnum):
    """The camera representations, by the paper's names."""

    THREE_DOF = "3DoF"
    SIX_DOF = "6DoF+1"
    SIX_DOF_NORM = "6DoF+1, norm"
    SIX_DOF_AGG = "6DoF+1, agg"
    SIX_DOF_VIEWER = "6DoF+1, viewer"
    SIX_DOF_METRIC = "6DoF+1, metric"
    SIX_DOF_MEGASCENES = "6DoF+1, MegaScenes"

    @property
    def size(self) -> int:
        """Numbers in the embedding of one camera."""
        return 4 if self is Representation.THREE_DOF else 19

    @property
    def official_mode(self) -> str:
        """Name in the published code and its configuration files; KeyError for MegaScenes."""
        return _OFFICIAL_MODES[self]

    @property
    def scaled_as(self) -> "Representation":
        """The representation of the paper that has the same scene scale."""
        return Representation.SIX_DOF_VIEWER if self is Representation.SIX_DOF_MEGASCENES else self


_OFFICIAL_MODES = {
    Representation.THREE_DOF: "3dof",
    Representation.SIX_DOF: "7dof_unscaled",
    Representation.SIX_DOF_NORM: "7dof",
    Representation.SIX_DOF_AGG: "7dof_stereomag_scale",
    Representation.SIX_DOF_VIEWER: "7dof_quantile_scale",
    Representation.SIX_DOF_METRIC: "7dof_metric_scale",
}


def representation_from_official(mode: str) -> Representation:
    """Return the representation that the published code calls `mode`, e.g. "7dof_quantile_scale".

    Raises:
        InputError: The published code has no such mode.
    """
    for representation, official_mode in _OFFICIAL_MODES.items():
        if mode == official_mode:
            return representation
    known = ", ".join(_OFFICIAL_MODES.values())
    raise InputError(f"unknown camera representation {mode!r}; the published code has: {known}")


def embed_cameras(
    representation: Representation,
    target_to_world: Float[Tensor, "*#batch 4 4"],
    input_to_world: Float[Tensor, "*#batch 4 4"],
    fov_y_rad: Float[Tensor, "*#batch"],
    scene_scale: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch d"]:
    """Return the embeddings of target cameras relative to input cameras.

    Args:
        representation: Representation of size d. 3DoF ignores field of view and scale, `6DoF+1`
            ignores the scale.
        target_to_world: OpenGL camera-to-world poses of the views to make, scene units.
        input_to_world: The same of the views given.
        fov_y_rad: Vertical field of view that both share, radians.
        scene_scale: Scene units per model unit (the paper's q), > 0.
    """
    if representation is Representation.THREE_DOF:
        return _spherical_change(target_to_world[..., :3, 3], input_to_world[..., :3, 3])
    target_to_input = relative_pose(target_to_world, input_to_world)
    rotation, translation = target_to_input[..., :3, :3], target_to_input[..., :3, 3]
    if representation is Representation.SIX_DOF_AGG:
        least, most = AGGREGATE_SCALE_RANGE
        scene_scale = torch.nan_to_num(scene_scale.clamp(least, most), nan=1.0)
    if representation is not Representation.SIX_DOF:
        translation = translation / scene_scale.clamp_min(LEAST_SCALE)[..., None]
    if representation is Representation.SIX_DOF_VIEWER:
        translation = squash_translation(translation)
    top = torch.cat([rotation.expand(*translation.shape, 3), translation[..., None]], dim=-1)
    bottom = target_to_input[..., 3:, :].expand(*top.shape[:-2], 1, 4)
    matrix = torch.cat([top, bottom], dim=-2).flatten(-2)
    if representation in (Representation.SIX_DOF, Representation.SIX_DOF_AGG):
        matrix = torch.nan_to_num(matrix.clamp(-CLIP, CLIP), nan=0.0)
    elif representation is Representation.SIX_DOF_VIEWER:
        matrix = torch.nan_to_num(matrix, nan=0.0, posinf=SQUASH_KNEE, neginf=-SQUASH_KNEE)
    if representation is Representation.SIX_DOF_MEGASCENES:
        # Of the square: MegaScenes/nvs, dataloader/data_helpers.py, `fov_from_intrinsics`.
        fov_y_rad = 2.0 * torch.atan(math.sqrt(2.0) * torch.tan(0.5 * fov_y_rad))
    lens = torch.stack([fov_y_rad, torch.sin(fov_y_rad), torch.cos(fov_y_rad)], dim=-1)
    shape = torch.broadcast_shapes(matrix.shape[:-1], lens.shape[:-1])
    return torch.cat([matrix.expand(*shape, 16), lens.expand(*shape, 3)], dim=-1)


def squash_translation(translation: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Squash translations t to 0.5 * 10 * tanh(t / 10), elementwise (in model units).

    About t / 2 for small t, bounded by +-5, so that distant cameras do not dominate the embedding.
    Not mentioned in the paper, but the released model was trained with it.
    """
    return SQUASH_SLOPE * SQUASH_KNEE * torch.tanh(translation / SQUASH_KNEE)


def _spherical_change(
    target_position: Float[Tensor, "*#batch 3"], input_position: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 4"]:
    """Return the change of polar angle, sine and cosine of that of azimuth, and that of radius."""
    target_polar, target_azimuth, target_radius = _spherical(target_position)
    input_polar, input_azimuth, input_radius = _spherical(input_position)
    azimuth = target_azimuth - input_azimuth
    return torch.stack(
        [
            target_polar - input_polar,
            torch.sin(azimuth),
            torch.cos(azimuth),
            target_radius - input_radius,
        ],
        dim=-1,
    )


def _spherical(
    position: Float[Tensor, "*batch 3"],
) -> tuple[
    Float[Tensor, "*batch"],  # polar angle from +z, radians
    Float[Tensor, "*batch"],  # azimuth from +x, radians
    Float[Tensor, "*batch"],  # radius, scene units
]:
    """Return spherical coordinates about the world origin."""
    x, y, z = position.unbind(-1)
    return torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x), position.norm(dim=-1)
