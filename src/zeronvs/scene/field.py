"""The radiance field of the paper: a contracted hash grid with separate density and colour heads.

Published code, configs/zero123_scene.yaml ("implicit-volume"): no view dependence; the colour is
the sigmoid of the second head, the density the softplus of the first plus Magic3D's blob.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from zeronvs.scene.hash_grid import HashGrid, HashGridConfig

_MLP_BLOCK_CPU = 8192  # points of one block: activations of 32 channels fill 1 MiB


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """Shape of the field; the defaults are the published ones."""

    grid: HashGridConfig = field(default_factory=HashGridConfig)
    """The hash grid under both heads."""
    radius: float = 2.0
    """Half the side of the box that the contraction leaves as it is, scene units."""
    hidden_width: int = 32
    """Channels of the heads' hidden layers."""
    hidden_layers: int = 2
    """Hidden layers of each head."""
    blob_strength: float = 5.0
    """Magic3D's blob, added before the softplus: strength * (1 - distance / radius)."""
    blob_radius: float = 0.5
    """Distance from the origin at which the blob changes sign, scene units."""
    lowest_bias: float | None = None
    """The blob falls no lower than this; None: no limit (published), so that far space is empty."""
    density_bias: float = 0.0
    """Constant added before the softplus."""

    @classmethod
    def small(cls) -> "FieldConfig":
        """Return a field for a CPU: 8 levels up to 979 vertices, narrow heads, and no blob.

        Without the blob, far space starts as thin fog, which photographs of whole scenes need:
        walls and sky are fitted as readily as what is near.
        """
        grid = HashGridConfig(levels=8, log2_table_size=18, base_resolution=16, growth=1.8)
        return cls(
            grid=grid, hidden_width=32, hidden_layers=1, blob_strength=0.0, density_bias=-1.0
        )


@dataclass(frozen=True, eq=False)
class FieldSample:
    """Values of a field at some points."""

    density: Float[Tensor, "*points"]
    """Extinction per scene unit, >= 0."""
    color: Float[Tensor, "*points 3"]
    """RGB in [0, 1]."""
    density_gradient: Float[Tensor, "*points 3"] | None = None
    """Gradient of the density in world axes, on request."""


@runtime_checkable
class RadianceField(Protocol):
    """Anything with a density and a colour at every point of space."""

    def density(self, points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points"]:
        """Return the extinction per scene unit, >= 0, at world `points`."""
        ...

    def color(self, points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points 3"]:
        """Return RGB in [0, 1] at world `points`."""
        ...

    def sample(
        self, points: Float[Tensor, "*points 3"], *, with_gradient: bool = False
    ) -> FieldSample:
        """Return everything at once; fields that share work between the heads override this."""
        if not with_gradient:
            return FieldSample(self.density(points), self.color(points))
        with torch.enable_grad():
            leaf = points.detach().requires_grad_(True)
            density = self.density(leaf)
            if not density.requires_grad:  # the same density everywhere
                return FieldSample(density, self.color(points), torch.zeros_like(points))
            (gradient,) = torch.autograd.grad(density.sum(), leaf, create_graph=True)
        return FieldSample(density, self.color(points), gradient)


class HashGridField(nn.Module, RadianceField):
    """The paper's field."""

    def __init__(
        self, config: FieldConfig | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config or FieldConfig()
        self.grid = HashGrid(self.config.grid, generator)
        width, layers = self.config.hidden_width, self.config.hidden_layers
        features = self.grid.feature_count
        self.density_head = PointMlp(features, width, layers, 1, generator)
        self.color_head = PointMlp(features, width, layers, 3, generator)

    def density(self, points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points"]:
        """Return the extinction per scene unit at world `points`."""
        flat = points.reshape(-1, 3)
        return self._density(flat, self._features(flat)).view(points.shape[:-1])

    def color(self, points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points 3"]:
        """Return RGB in [0, 1] at world `points`."""
        features = self._features(points.reshape(-1, 3))
        return torch.sigmoid(self.color_head(features)).T.reshape(points.shape)

    def sample(
        self, points: Float[Tensor, "*points 3"], *, with_gradient: bool = False
    ) -> FieldSample:
        """Return density, colour and, on demand, the density's gradient, from one look-up.

        The gradient is analytic and differentiable in the field's parameters, not in `points`.
        """
        flat = points.reshape(-1, 3)
        features = self._features(flat)
        color = torch.sigmoid(self.color_head(features)).T.reshape(points.shape)
        if not with_gradient:
            density = self._density(flat, features)
            return FieldSample(density.view(points.shape[:-1]), color)
        density, gradient = self._density_and_gradient(flat, features)
        return FieldSample(density.view(points.shape[:-1]), color, gradient.view(points.shape))

    def _features(self, points: Tensor) -> Tensor:
        return self.grid(contract(points, self.config.radius))

    def _density(self, points: Tensor, features: Tensor) -> Tensor:
        return functional.softplus(self.density_head(features)[0] + self._bias(points))

    def _density_and_gradient(self, points: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the density and its gradient, by the chain rule down to the grid."""
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = points.detach().requires_grad_(True)
            if not features.requires_grad:
                features = features.detach().requires_grad_(True)
            density = self._density(leaf, features)
            by_features, by_bias = torch.autograd.grad(
                density.sum(), (features, leaf), create_graph=keep_graph, materialize_grads=True
            )
            contracted = contract(leaf, self.config.radius)
            by_contracted = self.grid.spatial_gradient(contracted.detach(), by_features)
            (by_grid,) = torch.autograd.grad(
                contracted, leaf, by_contracted, create_graph=keep_graph
            )
        if not keep_graph:
            density = density.detach()
        return density, by_bias + by_grid

    def _bias(self, points: Tensor) -> Tensor | float:
        """Return what is added before the softplus: Magic3D's blob and a constant."""
        config = self.config
        if config.blob_strength == 0.0:
            return config.density_bias
        blob = config.blob_strength * (1.0 - points.norm(dim=-1) / config.blob_radius)
        if config.lowest_bias is not None:
            blob = blob.clamp(min=config.lowest_bias)
        return blob + config.density_bias


class PointMlp(nn.Module):
    """A small ReLU network without biases on features in columns ("features n")."""

    def __init__(
        self,
        features: int,
        width: int,
        hidden_layers: int,
        outputs: int,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build it with He-uniform weights, as `torch.nn.Linear` has them."""
        super().__init__()
        widths = [features, *[width] * hidden_layers, outputs]
        self.weights = nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            bound = fan_in**-0.5
            weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
            self.weights.append(nn.Parameter(weight))

    def forward(self, features: Float[Tensor, "features n"]) -> Float[Tensor, "outputs n"]:
        """Return the outputs, one column a point."""
        if features.device.type != "cpu" or features.shape[1] <= _MLP_BLOCK_CPU:
            return self._block(features)
        blocks = features.split(_MLP_BLOCK_CPU, dim=1)
        return torch.cat([self._block(block) for block in blocks], dim=1)

    def _block(self, features: Tensor) -> Tensor:
        *hidden, last = self.weights
        for weight in hidden:
            features = (weight @ features).relu()
        return last @ features


def contract(points: Float[Tensor, "*points 3"], radius: float) -> Float[Tensor, "*points 3"]:
    """Map all of space into the unit cube (mip-NeRF 360, Eq. 10, after scaling by `radius`).

    Points within `radius` of the origin keep their shape and land within 1/4 of the cube's centre;
    infinity lands at distance 1/2 from it. Published code: models/networks and geometry/base.py,
    `contract_to_unisphere(unbounded=True)`.
    """
    scaled = points / radius
    distance = scaled.norm(dim=-1, keepdim=True).clamp(min=1.0)  # 1 inside: nothing changes there
    return scaled * ((2.0 - 1.0 / distance) / distance) / 4.0 + 0.5
