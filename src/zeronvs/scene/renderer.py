"""Volume rendering along rays: proposal sampling, weights, and what they accumulate.

Symbols: r rays, m final intervals, T transmittance, w weights. Rays are divided into intervals
uniform in disparity; a proposal density yields a histogram over them, and the field is evaluated at
the midpoints of intervals of equal mass. Published code, renderers/nerf_volume_renderer.py with
estimator "proposal".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from zeronvs.scene.field import RadianceField
from zeronvs.scene.proposal import (
    distance_of,
    distortion_loss,
    even_edges,
    interlevel_loss,
    resample,
)

Density = Callable[[Tensor], Tensor]
"""Maps world points "*points 3" to a density "*points"."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Sampling of rays; the defaults are the published ones for a user's own image."""

    near: float = 0.5
    """Distance at which rays start, scene units (published: 0.25 DTU, 0.6 Mip-NeRF 360)."""
    far: float = 1000.0
    """Distance at which rays end, scene units (published: 100 DTU)."""
    proposal_samples: int = 64
    """Intervals at which the proposal density is evaluated; 0: none, uniform final samples."""
    final_samples: int = 64
    """Intervals at which the field is evaluated."""
    padding: float = 0.01
    """Share of the final samples that is spread over all proposal intervals."""
    chunk_rays: int = 4096
    """Rays rendered at a time where gradients are disabled; bounds the memory."""
    graph_rays: int = 16384
    """Rays whose graph is kept at a time where gradients are enabled. An image of more rays is
    rendered again in the backward pass, in chunks of so many: a quarter slower, and 16,384 rays of
    the published field with normals keep 1.6 GB."""

    @classmethod
    def small(cls, near: float = 0.1, far: float = 100.0) -> "RenderConfig":
        """Return half the published number of samples, for a CPU."""
        return cls(near=near, far=far, proposal_samples=32, final_samples=32, chunk_rays=2048)


@dataclass(frozen=True, kw_only=True)
class RayLosses:
    """Which losses of rays are computed; the others are zeros."""

    interlevel: bool = True
    distortion: bool = True


@dataclass(frozen=True, eq=False)
class RayRendering:
    """Rendering of single rays."""

    rgb: Float[Tensor, "r 3"]
    """Colour over the background, in [0, 1]."""
    opacity: Float[Tensor, " r"]
    """Accumulated weight along the ray, in [0, 1]."""
    distance: Float[Tensor, " r"]
    """Distance along the ray, scene units: the inverse of the mean disparity, which is robust to
    distant fog; the far plane for empty rays."""
    accumulated_distance: Float[Tensor, " r"]
    """Sum of weight times distance, not divided by the opacity: 0 for empty rays (published
    code's `depth`)."""
    quantile_distance: Float[Tensor, " r"] | None
    """Distance at which a share of the weight is accumulated, no gradient; on request."""
    normal: Float[Tensor, "r 3"] | None
    """Unit normals in world axes, opposite to the density's gradient; on request."""
    interlevel_loss: Float[Tensor, " r"]
    """Loss of the proposal density; zeros where it is not asked for."""
    distortion_loss: Float[Tensor, " r"]
    """Spread of the weights along the ray; zeros where it is not asked for."""
    orientation_loss: Float[Tensor, " r"]
    """Sum over samples of w max(normal . direction, 0)^2; zeros without normals."""

    @property
    def mean_orientation_loss(self) -> Float[Tensor, ""]:
        """Orientation loss per ray that meets something (published normalisation)."""
        return self.orientation_loss.sum() / (self.opacity > 0).sum().clamp(min=1)


def march_rays(
    field: RadianceField,
    proposal: Density | None,
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    config: RenderConfig,
    *,
    background: Float[Tensor, "r 3"] | None = None,
    jitter: Float[Tensor, "r 2"] | None = None,
    quantile: Float[Tensor, "r 1"] | None = None,
    with_normals: bool = False,
    with_losses: RayLosses = RayLosses(),
) -> RayRendering:
    """Render rays.

    Args:
        proposal: Density for importance sampling; None: uniform samples.
        background: RGB behind each ray; None: black.
        jitter: In [-0.5, 0.5), shifts the proposal and the final intervals; None: none.
        quantile: In [0, 1], the share for `RayRendering.quantile_distance`; None: not computed.
        with_normals: Also return normals, at the price of a second derivative in training.
        with_losses: The losses to return.
    """
    rays = origins.shape[0]
    first, second = (None, None) if jitter is None else (jitter[:, :1], jitter[:, 1:])
    edges = even_edges(rays, config.final_samples, second, origins)
    coarse = None
    if proposal is not None and config.proposal_samples > 0:
        coarse_edges = even_edges(rays, config.proposal_samples, first, origins)
        distances = distance_of(coarse_edges, config.near, config.far)
        density = proposal(_middle_points(origins, directions, distances))
        coarse = (coarse_edges, ray_weights(density, distances))
        edges = resample(*coarse, edges, config.padding)
    distances = distance_of(edges, config.near, config.far)
    sample = field.sample(
        _middle_points(origins, directions, distances), with_gradient=with_normals
    )
    weights = ray_weights(sample.density, distances)
    interlevel = orientation = origins.new_zeros(rays)
    if coarse is not None and with_losses.interlevel:
        interlevel = interlevel_loss(*coarse, edges, weights)
    normal = None
    if sample.density_gradient is not None:
        normals = -functional.normalize(sample.density_gradient, dim=-1)
        facing_away = (normals * directions[:, None]).sum(dim=-1).clamp(min=0.0)
        orientation = (weights.detach() * facing_away.square()).sum(dim=-1)
        normal = functional.normalize((weights[..., None] * normals).sum(dim=1), dim=-1)
    opacity = weights.sum(dim=-1)
    rgb = (weights[..., None] * sample.color).sum(dim=1)
    if background is not None:
        rgb = rgb + (1.0 - opacity)[:, None] * background
    return RayRendering(
        rgb,
        opacity,
        _mean_distance(weights, distances, config.far),
        (weights * _middle(distances)).sum(dim=-1),
        None if quantile is None else _quantile_distance(weights, distances, quantile),
        normal,
        interlevel,
        distortion_loss(edges, weights) if with_losses.distortion else origins.new_zeros(rays),
        orientation,
    )


def ray_weights(
    density: Float[Tensor, "r m"], distances: Float[Tensor, "r m_edges"]
) -> Float[Tensor, "r m"]:
    """Return the weight of each interval: w = T (1 - exp(-density * length)).

    Computed from the transmittance at the edges, so that the weights of a ray sum to its opacity
    and lie in [0, 1].
    """
    thickness = density * (distances[:, 1:] - distances[:, :-1])
    depth = torch.cat([torch.zeros_like(thickness[:, :1]), thickness.cumsum(dim=-1)], dim=-1)
    transmittance = torch.exp(-depth)
    return transmittance[:, :-1] * -torch.expm1(-thickness)


def recomputed(march: Callable[[], RayRendering], parameters: Sequence[Tensor]) -> RayRendering:
    """Render rays without a graph, and again with one in the backward pass.

    Values and gradients are those of `march()`.

    Args:
        march: Renders the same rays at each call.
        parameters: What the rendering depends on and is differentiated by.
    """
    values = _Recomputed.apply(march, *parameters)
    return RayRendering(*values)  # type: ignore[misc]


class _Recomputed(torch.autograd.Function):
    """Forward: the rendering's values. Backward: the rendering anew, and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, march: Callable[[], RayRendering], *parameters: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.march = march
        ctx.save_for_backward(*parameters)
        ctx.set_materialize_grads(False)
        rendering = march()
        if rendering.quantile_distance is not None:
            ctx.mark_non_differentiable(rendering.quantile_distance)
        return tuple(getattr(rendering, item.name) for item in fields(rendering))

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            rendering = ctx.march()
        outputs, wanted = [], []
        for item, gradient in zip(fields(rendering), gradients, strict=True):
            output = getattr(rendering, item.name)
            if gradient is not None and output.requires_grad:
                outputs.append(output)
                wanted.append(gradient)
        found = torch.autograd.grad(outputs, ctx.saved_tensors, wanted, allow_unused=True)
        return None, *found


def join_rays(parts: list[RayRendering]) -> RayRendering:
    """Join renderings of consecutive rays."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for item in fields(RayRendering):
        tensors = [getattr(part, item.name) for part in parts]
        joined[item.name] = None if tensors[0] is None else torch.cat(tensors)
    return RayRendering(**joined)


def _middle_points(origins: Tensor, directions: Tensor, distances: Tensor) -> Tensor:
    """Return the world points in the middle of the intervals, "r m 3"."""
    return torch.addcmul(origins[:, None], directions[:, None], _middle(distances)[..., None])


def _middle(distances: Tensor) -> Tensor:
    """Return the distances of the middles of the intervals, "r m"."""
    return 0.5 * (distances[:, 1:] + distances[:, :-1])


def _mean_distance(weights: Tensor, distances: Tensor, far: float) -> Tensor:
    """Return the inverse of the mean disparity of what is absorbed."""
    opacity, disparity = weights.sum(dim=-1), (weights / _middle(distances)).sum(dim=-1)
    epsilon = 1e-6
    return (opacity + epsilon) / (disparity + epsilon / far)


def _quantile_distance(weights: Tensor, distances: Tensor, quantile: Tensor) -> Tensor:
    """Return where a share of what is absorbed is absorbed, linear inside of the interval."""
    weights, distances = weights.detach(), distances.detach()
    cumulative = weights.cumsum(dim=-1)
    target = quantile * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target).clamp(max=weights.shape[-1] - 1)
    weight = weights.gather(1, index)
    share = (target - cumulative.gather(1, index) + weight) / weight.clamp(min=1e-12)
    start, end = distances.gather(1, index), distances.gather(1, index + 1)
    return torch.lerp(start, end, share.clamp(0.0, 1.0))[:, 0]
