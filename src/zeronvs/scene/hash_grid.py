"""Multiresolution hash grid (Instant-NGP, arXiv:2201.05989, section 3), twice differentiable.

The arithmetic is in `grid_kernels` (plain torch) and `grid_kernels_warp` (fused); here are the
table, the autograd functions over it, and the choice between the two. A twin that follows the paper
line by line lives in the tests.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zeronvs._core.optional import require
from zeronvs.scene.grid_kernels import GridKernels, GridLayout, PlainKernels

_PRIMES = (1, 2654435761 - 2**32, 805459861)  # as int32; multiplication wraps, as the hash wants


@dataclass(frozen=True, kw_only=True)
class HashGridConfig:
    """Shape of a hash grid; the defaults are the published ones (zero123_scene.yaml)."""

    levels: int = 16
    """Number of resolutions."""
    features_per_level: int = 2
    """Features stored at each grid vertex."""
    log2_table_size: int = 19
    """Levels with more vertices than 2 to this power are hashed into that many entries."""
    base_resolution: int = 16
    """Vertices along an axis of the coarsest level."""
    growth: float = 1.4473
    """Ratio of the resolutions of consecutive levels."""

    @property
    def resolutions(self) -> list[int]:
        """Vertices along an axis, coarsest level first (Eq. 2)."""
        return [
            math.floor(self.base_resolution * self.growth**level + 1e-6)
            for level in range(self.levels)
        ]


class HashGrid(nn.Module):
    """Maps points of the unit cube to features, interpolated from tables at several resolutions."""

    cells: Tensor
    strides: Tensor
    offsets: Tensor
    kernels: GridKernels | None = None
    """What computes; None: the fastest for the device of the points (`kernels_for`)."""

    def __init__(self, config: HashGridConfig, generator: torch.Generator | None = None) -> None:
        """Build the grid with entries drawn uniformly from [-1e-4, 1e-4]."""
        super().__init__()
        self.config = config
        table_size = 2**config.log2_table_size
        resolutions = config.resolutions
        self._dense_levels = sum(resolution**3 <= table_size for resolution in resolutions)
        dense, hashed = resolutions[: self._dense_levels], resolutions[self._dense_levels :]
        offsets = [sum(r**3 for r in dense[:level]) for level in range(len(dense))]
        # Hashed levels come first in the table, so that their offsets can be added by XOR.
        offsets = [len(hashed) * table_size + offset for offset in offsets]
        offsets += [level * table_size for level in range(len(hashed))]
        entries = len(hashed) * table_size + sum(r**3 for r in dense)
        strides = [(1, r, r * r) for r in dense] + [_PRIMES] * len(hashed)
        table = torch.empty(config.features_per_level, entries)
        self.table = nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))
        cells = torch.tensor(resolutions, dtype=torch.float32)[:, None] - 1.0
        self.register_buffer("cells", cells, persistent=False)
        strides = torch.tensor(strides, dtype=torch.int32).T[..., None].contiguous()
        self.register_buffer("strides", strides, persistent=False)
        offsets = torch.tensor(offsets, dtype=torch.int32)[:, None]
        self.register_buffer("offsets", offsets, persistent=False)

    @property
    def feature_count(self) -> int:
        """Features per point: levels times features per level."""
        return self.config.levels * self.config.features_per_level

    @property
    def layout(self) -> GridLayout:
        """Position of each level in the table."""
        mask = 2**self.config.log2_table_size - 1
        return GridLayout(self.cells, self.strides, self.offsets, self._dense_levels, mask)

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "features n"]:
        """Return the features at `points`, one column a point, feature index slowest.

        Args:
            points: In [0, 1]; coordinates outside are clamped.
        """
        kernels = self.kernels or kernels_for(points.device)
        arguments = (points.float(), self.table, self.layout, kernels)
        return _Encode.apply(*arguments)  # type: ignore[return-value]

    def spatial_gradient(
        self, points: Float[Tensor, "n 3"], feature_gradient: Float[Tensor, "features n"]
    ) -> Float[Tensor, "n 3"]:
        """Return the gradient at `points` of a quantity whose feature gradient is given.

        Differentiable in the table and in `feature_gradient`, not in `points`.
        """
        kernels = self.kernels or kernels_for(points.device)
        arguments = (points.float(), self.table, feature_gradient, self.layout, kernels)
        return _SpatialGradient.apply(*arguments)  # type: ignore[return-value]


@cache
def kernels_for(device: torch.device) -> GridKernels:
    """Return the fastest kernels for a device: fused where Warp is installed and supports it.

    On a CPU, too: several times as fast as plain torch (benchmarks/hash_grid.py).
    """
    if device.type in {"cpu", "cuda"}:
        try:
            require("warp", "warp")
        except ImportError:
            return PlainKernels()
        from zeronvs.scene.grid_kernels_warp import warp_kernels

        return warp_kernels(device) or PlainKernels()
    return PlainKernels()


class _Encode(torch.autograd.Function):
    """features = interpolated table entries; points and table are differentiable."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, table: Tensor, layout: GridLayout, kernels: GridKernels
    ) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.layout, ctx.kernels = layout, kernels
        return kernels.features(points, table, layout).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        points, table = ctx.saved_tensors
        point_gradient = table_gradient = None
        if ctx.needs_input_grad[0]:
            arguments = (points, table, gradients[0], ctx.layout, ctx.kernels)
            point_gradient = _SpatialGradient.apply(*arguments)
        if ctx.needs_input_grad[1]:
            with torch.no_grad():
                gradient = gradients[0].unflatten(0, (table.shape[0], -1))
                table_gradient = ctx.kernels.table_gradient(points, table, gradient, ctx.layout)
        return point_gradient, table_gradient, None, None  # type: ignore[return-value]


class _SpatialGradient(torch.autograd.Function):
    """The points' gradient of `_Encode`, itself differentiable in table and feature gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        table: Tensor,
        gradient: Tensor,
        layout: GridLayout,
        kernels: GridKernels,
    ) -> Tensor:
        ctx.save_for_backward(points, table, gradient)
        ctx.layout, ctx.kernels = layout, kernels
        gradient = gradient.unflatten(0, (table.shape[0], -1))
        return kernels.point_gradient(points, table, gradient, layout)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor
    ) -> tuple[None, Tensor, Tensor, None, None]:
        points, table, gradient = ctx.saved_tensors
        gradient = gradient.unflatten(0, (table.shape[0], -1))
        table_gradient, feature_gradient = ctx.kernels.second_gradients(
            points, table, gradient, gradients[0], ctx.layout
        )
        return None, table_gradient, feature_gradient.flatten(0, 1), None, None
