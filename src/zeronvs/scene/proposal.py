"""Proposal sampling along rays: a small density, resampling of its histogram, and its loss.

Positions along a ray have two measures: the distance t in scene units and s in [0, 1], uniform in
disparity between the near and far plane. Histograms over s are given by their edges.
Symbols: r rays, p proposal intervals, m final intervals.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zeronvs.scene.field import PointMlp, contract
from zeronvs.scene.hash_grid import HashGrid, HashGridConfig

_EPSILON = 1e-7


@dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """Shape of the proposal density; the defaults are the published ones."""

    grid: HashGridConfig = field(
        default_factory=lambda: HashGridConfig(levels=5, log2_table_size=17, growth=1.68)
    )
    """The hash grid."""
    hidden_width: int = 64
    """Channels of the hidden layer."""
    radius: float = 2.0
    """Half the side of the box that the grid covers, scene units."""
    contracted: bool = False
    """Whether the grid covers all of space, contracted as in the field; if not, the density is zero
    outside the box (published: `unbounded_prop` false)."""

    @classmethod
    def small(cls) -> "ProposalConfig":
        """Return a proposal for a CPU, contracted so that it covers unbounded space."""
        grid = HashGridConfig(
            levels=4, features_per_level=1, log2_table_size=15, base_resolution=12, growth=1.8
        )
        return cls(grid=grid, hidden_width=16, contracted=True)


class ProposalDensity(nn.Module):
    """A cheap density that bounds the field's from above, for importance sampling."""

    def __init__(
        self, config: ProposalConfig | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config or ProposalConfig()
        self.grid = HashGrid(self.config.grid, generator)
        width = self.config.hidden_width
        self.head = PointMlp(self.grid.feature_count, width, 1, 1, generator)

    def forward(self, points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points"]:
        """Return a density >= 0 per scene unit at world `points`: exp(head - 1)."""
        flat = points.reshape(-1, 3)
        radius = self.config.radius
        unit = contract(flat, radius) if self.config.contracted else flat / (2 * radius) + 0.5
        density = truncated_exp(self.head(self.grid(unit))[0] - 1.0)
        if not self.config.contracted:
            density = density * (flat.abs() <= radius).all(dim=-1)
        return density.view(points.shape[:-1])


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        exponential = value.clamp(max=15.0).exp()
        ctx.save_for_backward(exponential)
        return exponential

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.saved_tensors[0]


def truncated_exp(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return exp(min(value, 15)) whose gradient does not vanish above 15 (Instant-NGP)."""
    return _TruncatedExp.apply(value)  # type: ignore[return-value]


def distance_of(s: Float[Tensor, "*shape"], near: float, far: float) -> Float[Tensor, "*shape"]:
    """Return the distance t of `s`: 1/t is linear in s from 1/near to 1/far ("lindisp")."""
    return 1.0 / torch.lerp(torch.full_like(s, 1.0 / near), torch.full_like(s, 1.0 / far), s)


def even_edges(
    rays: int, intervals: int, jitter: Float[Tensor, "r 1"] | None, like: Tensor
) -> Float[Tensor, "r edges"]:
    """Return the edges of even intervals on [0, 1], the inner ones shifted by `jitter` of a step.

    Args:
        intervals: Intervals; there is one edge more.
        jitter: In [-0.5, 0.5), the same for all edges of a ray; None: none.
    """
    edges = torch.linspace(0.0, 1.0, intervals + 1, dtype=like.dtype, device=like.device)
    edges = edges.expand(rays, -1)
    if jitter is None:
        return edges
    inner = edges[:, 1:-1] + jitter / intervals
    return torch.cat([edges[:, :1], inner, edges[:, -1:]], dim=1)


def resample(
    edges: Float[Tensor, "r p_edges"],
    weights: Float[Tensor, "r p"],
    quantiles: Float[Tensor, "r m_edges"],
    padding: float = 0.01,
) -> Float[Tensor, "r m_edges"]:
    """Return the edges at given quantiles of a histogram (inverse transform sampling).

    Args:
        edges: Edges of the histogram, ascending.
        weights: Weights of the intervals, >= 0, sum <= 1; the rest is assigned to the last one.
        quantiles: Ascending in [0, 1], e.g. from `even_edges`.
        padding: Mass distributed evenly over the intervals, so that each is sampled sometimes.
    """
    # Probabilities: pad, and assign the light that passes all intervals to the last one.
    weights = weights.detach() + padding / weights.shape[-1]
    rest = (1.0 + padding - weights.sum(dim=-1, keepdim=True)).clamp(min=0.0)
    weights = torch.cat([weights[:, :-1], weights[:, -1:] + rest], dim=-1)
    # The CDF at the edges starts with exactly 0 and ends with exactly 1.
    cumulative = weights.cumsum(dim=-1)
    cumulative = torch.cat([torch.zeros_like(rest), cumulative / cumulative[:, -1:]], dim=-1)
    # Interval of each quantile: the first edge whose CDF exceeds it is the upper one. `right=True`
    # skips empty intervals, so that the division below is by a positive mass.
    upper = torch.searchsorted(cumulative, quantiles.contiguous(), right=True)
    upper = upper.clamp(1, edges.shape[-1] - 1)
    low, high = cumulative.gather(1, upper - 1), cumulative.gather(1, upper)
    # The density is constant within an interval: invert the CDF linearly.
    share = ((quantiles - low) / (high - low).clamp(min=_EPSILON)).clamp(0.0, 1.0)
    return torch.lerp(edges.gather(1, upper - 1), edges.gather(1, upper), share)


def interlevel_loss(
    proposal_edges: Float[Tensor, "r p_edges"],
    proposal_weights: Float[Tensor, "r p"],
    edges: Float[Tensor, "r m_edges"],
    weights: Float[Tensor, "r m"],
) -> Float[Tensor, " r"]:
    """Return per ray how far the proposal fails to bound the final weights from above.

    mip-NeRF 360, Eq. 13, in nerfacc's form: the mean over the final intervals of
    max(0, w - bound)^2 / w, where the bound of an interval is the sum of the proposal's weights
    over all intervals that it touches. The final weights get no gradient.
    """
    weights = weights.detach()
    # Sum of proposal weights before each proposal edge: a sum over intervals is a difference.
    cumulative = proposal_weights.cumsum(dim=-1)
    cumulative = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative], dim=-1)
    last = proposal_edges.shape[-1] - 1
    # Proposal intervals that overlap [edges_k, edges_k+1]: from the last proposal edge <= edges_k
    # (`right=True`: an equal edge counts, so that the interval before it does not)
    # to the first proposal edge >= edges_k+1 (an equal edge ends the range).
    proposal_edges, edges = proposal_edges.contiguous(), edges.contiguous()
    start = torch.searchsorted(proposal_edges, edges[:, :-1].contiguous(), right=True) - 1
    end = torch.searchsorted(proposal_edges, edges[:, 1:].contiguous())
    bound = cumulative.gather(1, end.clamp(0, last)) - cumulative.gather(1, start.clamp(0, last))
    # Only weight above the bound is penalised, relative to the weight itself.
    return ((weights - bound).clamp(min=0.0).square() / (weights + _EPSILON)).mean(dim=-1)


def distortion_loss(
    edges: Float[Tensor, "r m_edges"], weights: Float[Tensor, "r m"]
) -> Float[Tensor, " r"]:
    """Return per ray the spread of its weights (mip-NeRF 360, Eq. 15), in O(m).

    sum_ij w_i w_j |t_i - t_j| = 2 sum_i w_i (t_i sum_j<i w_j - sum_j<i w_j t_j), since t ascends.
    """
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    moment = weights * middle
    before, moment_before = weights.cumsum(dim=-1) - weights, moment.cumsum(dim=-1) - moment
    between = 2.0 * (weights * (middle * before - moment_before)).sum(dim=-1)
    within = (weights.square() * (edges[:, 1:] - edges[:, :-1])).sum(dim=-1) / 3.0
    return between + within
