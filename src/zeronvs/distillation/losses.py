"""The terms of the distillation loss and their published weights (zero123_scene.yaml)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.random import sent
from zeronvs.distillation.supervision import PixelBatch
from zeronvs.scene.field import RadianceField

RobustKind = Literal["squared", "absolute", "huber"]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the loss terms; 0 disables a term and its cost."""

    sds: float = 0.1
    """Score distillation on random views, summed over the latent (published: 0.1)."""
    rgb: float = 1500.0
    """Mean squared error on the photo (published: 1500)."""
    normal_smoothness: float = 8.0
    """Squared differences between neighbouring pixels of the normal map (published: 8)."""
    orientation: float = 5.0
    """Normals that face away from the camera (published: 5)."""
    opaque: float = 0.0
    """Binary entropy of the opacity (published: 0.1 on DTU, 0 otherwise)."""
    interlevel: float = 1.0
    """Agreement of the proposal density with the field (mip-NeRF 360)."""
    distortion: float = 0.0
    """Distortion of the weights along a ray (mip-NeRF 360); suppresses floaters. Published: 0."""
    supervised_rgb: float = 1500.0
    """Colour error on supervised views other than the photo, before each view's own weight."""
    supervised_depth: float = 0.0
    """Error of the log depth on views that carry depth."""
    free_space: float = 0.0
    """Density in front of the known depth, on views that carry depth. Without it a few views are
    fitted best by a billboard in front of each camera, with nothing between them."""

    @property
    def needs_normals(self) -> bool:
        """Whether any term reads the normals, which cost a second derivative of the density."""
        return self.normal_smoothness > 0 or self.orientation > 0


def normal_smoothness_loss(
    normal: Float[Tensor, "b 3 h w"], opacity: Float[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the mean squared difference of neighbours in the normal map, down plus across.

    The map is (n + 1) / 2 * opacity for the unit normal n (published code, systems/zero123.py,
    `normal_smooth`, on `comp_normal` of renderers/nerf_volume_renderer.py). So the pull on n is a
    quarter of that of n itself, it fades where there is nothing, and the opacity is smoothed, too.
    """
    shown = (normal + 1.0) / 2.0 * opacity[:, None]
    down = (shown[..., 1:, :] - shown[..., :-1, :]).square().mean()
    across = (shown[..., :, 1:] - shown[..., :, :-1]).square().mean()
    return down + across


def opaque_loss(opacity: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean binary entropy of the opacity: 0 where all is clear or solid, ln 2 at half.

    Clamped to [1e-3, 1 - 1e-3] as in the published code, systems/zero123.py (`loss_opaque`).
    """
    opacity = opacity.clamp(1e-3, 1.0 - 1e-3)
    return -(opacity * opacity.log() + (1 - opacity) * (1 - opacity).log()).mean()


def robust_error(
    difference: Float[Tensor, "*shape"], kind: RobustKind, knee: float = 0.1
) -> Float[Tensor, "*shape"]:
    """Return a penalty that equals the square near zero and grows at infinity as `kind` states.

    Args:
        kind: "squared" d^2; "absolute" knee * |d|; "huber" d^2 up to the knee, then straight.
        knee: Start of the linear part: sampled views that are inconsistent by more than this have
            a bounded gradient, which keeps them from fogging the scene.
    """
    size = difference.abs()
    if kind == "squared":
        return difference.square()
    if kind == "absolute":
        return knee * size
    return torch.where(size <= knee, size.square(), knee * (2 * size - knee))


def depth_error(
    depth_z: Float[Tensor, " n"], target_depth_z: Float[Tensor, " n"], knee: float = 0.1
) -> Float[Tensor, " n"]:
    """Return the Huber penalty of the log depth ratio; 0 where the target is unknown (0).

    Logarithms make an error of 10 % count the same near and far.
    """
    known = target_depth_z > 0
    target = torch.where(known, target_depth_z, torch.ones_like(target_depth_z))
    log_ratio = depth_z.clamp(min=1e-3).log() - target.log()
    return torch.where(known, robust_error(log_ratio, "huber", knee), torch.zeros_like(log_ratio))


def free_space_loss(
    field: RadianceField,
    pixels: PixelBatch,
    near: float,
    generator: torch.Generator,
    *,
    margin: float = 0.15,
    samples: int = 2,
) -> Float[Tensor, ""]:
    """Return the mean absorption between the camera and the known depth.

    One minus exp(-optical depth), the optical depth estimated from a few random points a ray.

    Args:
        pixels: Rays with depth; those of unknown depth are free.
        margin: Share of the distance before the known depth that may hold content.
    """
    end = (1.0 - margin) * pixels.depth_z / pixels.z_per_unit_distance
    length = (end - near).clamp(min=0.0)
    fraction = torch.rand((len(end), samples), generator=generator)
    distance = near + length[:, None] * sent(fraction, end.device)
    points = pixels.origins[:, None] + distance[..., None] * pixels.directions[:, None]
    optical_depth = field.density(points) * length[:, None]
    return (pixels.trust[:, None] * -torch.expm1(-optical_depth)).mean()


def clearance_loss(
    field: RadianceField,
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    turn_rad: float,
    generator: torch.Generator,
    *,
    share: float = 0.25,
) -> Float[Tensor, ""]:
    """Return the mean absorption close to cameras between the known ones.

    Unobserved space is unconstrained, and density close to a camera path fills whole frames. Rays
    of the known views are rotated about the world's z, so that they start between the views.

    Args:
        origins: Where rays of known views start, scene units.
        turn_rad: Rays are turned by up to this, either way.
        share: Rays should be empty up to this fraction of the distance to the world's origin.
    """
    draws = sent(torch.rand((2, len(origins)), generator=generator), origins.device)
    turn = turn_rad * (2.0 * draws[0] - 1.0)
    cosine, sine = turn.cos(), turn.sin()
    length = share * origins.norm(dim=-1)
    x, y, z = (origins + (draws[1] * length)[:, None] * directions).unbind(-1)
    points = torch.stack([cosine * x - sine * y, sine * x + cosine * y, z], dim=-1)
    return -torch.expm1(-field.density(points) * length).mean()
