"""Multiresolution hash grid (Instant-NGP, arXiv:2201.05989, section 3) in plain torch.

Fast on a CPU because one level's table and the temporaries of a block of points stay in the cache
together, and the eight corners are the leading axes, so that every operation runs along contiguous
memory. On a GPU all levels and points go through each operation at once. No weights are formed:
corners are interpolated axis by axis, and gradients are spread the same way. A plain twin lives in
the tests.

Symbols: n points, l levels, f features per level; corner axes are ordered z, y, x.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_PRIMES = (1, 2654435761 - 2**32, 805459861)  # as int32; multiplication wraps, as the hash wants
_BLOCK_POINTS_CPU = 16384  # points of one block: eight corners of a level fill 512 KiB
_BLOCK_POINTS_GPU = 1 << 22
_LARGEST_BELOW_ONE = 1.0 - 2.0**-20  # keeps the last cell's index in range at 4096 cells


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


@dataclass(frozen=True, eq=False)
class GridLayout:
    """Position of each level of the grid in the table."""

    cells: Float[Tensor, "levels 1"]
    """Cells along an axis."""
    strides: Int32[Tensor, "3 levels 1"]
    """Index stride along x, y, z: vertices to skip, or the hash's prime (Eq. 4)."""
    offsets: Int32[Tensor, "levels 1"]
    """First entry of each level; multiples of the table size for hashed levels."""
    dense_levels: int
    """The first so many levels are dense, the others hashed."""
    hash_mask: int
    """Table size of a hashed level, minus one."""

    def __getitem__(self, levels: slice) -> "GridLayout":
        """Return the layout of some consecutive levels."""
        start, stop, _ = levels.indices(self.cells.shape[0])
        return GridLayout(
            self.cells[levels],
            self.strides[:, levels],
            self.offsets[levels],
            min(max(self.dense_levels - start, 0), stop - start),
            self.hash_mask,
        )


class HashGrid(nn.Module):
    """Maps points of the unit cube to features, interpolated from tables at several resolutions."""

    cells: Tensor
    strides: Tensor
    offsets: Tensor

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
        return _Encode.apply(points.float(), self.table, self.layout)  # type: ignore[return-value]

    def spatial_gradient(
        self, points: Float[Tensor, "n 3"], feature_gradient: Float[Tensor, "features n"]
    ) -> Float[Tensor, "n 3"]:
        """Return the gradient at `points` of a quantity whose feature gradient is given.

        Differentiable in the table and in `feature_gradient`, not in `points`.
        """
        arguments = (points.float(), self.table, feature_gradient, self.layout)
        return _SpatialGradient.apply(*arguments)  # type: ignore[return-value]


class _Encode(torch.autograd.Function):
    """features = interpolated table entries; points and table are differentiable."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.layout = layout
        features = table.new_empty(table.shape[0], layout.cells.shape[0], points.shape[0])
        for levels, block in _blocks(points, layout):
            index, fraction = _corner_index(points[block], layout[levels])
            for entries, out in zip(table, features, strict=True):
                corners = entries.index_select(0, index.view(-1)).view(index.shape)
                out[levels, block] = _interpolate(corners, fraction)
        return features.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        points, table = ctx.saved_tensors
        point_gradient = table_gradient = None
        if ctx.needs_input_grad[0]:
            point_gradient = _SpatialGradient.apply(points, table, gradients[0], ctx.layout)
        if ctx.needs_input_grad[1]:
            with torch.no_grad():
                table_gradient = _table_gradient(points, table, gradients[0], ctx.layout)
        return point_gradient, table_gradient, None  # type: ignore[return-value]


def _table_gradient(points: Tensor, table: Tensor, gradient: Tensor, layout: GridLayout) -> Tensor:
    """Return the gradient of `table` under the gradient of the features ("features n")."""
    table_gradient = torch.zeros_like(table)
    gradient = gradient.unflatten(0, (table.shape[0], -1))
    for levels, block in _blocks(points, layout):
        index, fraction = _corner_index(points[block], layout[levels])
        spread = torch.empty(index.shape, dtype=gradient.dtype, device=gradient.device)
        for entries_gradient, feature_gradient in zip(table_gradient, gradient, strict=True):
            _spread(feature_gradient[levels, block], fraction, out=spread)
            entries_gradient.scatter_add_(0, index.view(-1), spread.view(-1))
    return table_gradient


class _SpatialGradient(torch.autograd.Function):
    """The points' gradient of `_Encode`, itself differentiable in table and feature gradient."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, table: Tensor, gradient: Tensor, layout: GridLayout
    ) -> Tensor:
        ctx.save_for_backward(points, table, gradient)
        ctx.layout = layout
        gradient = gradient.unflatten(0, (table.shape[0], -1))
        point_gradient = points.new_zeros(3, points.shape[0])
        for levels, block in _blocks(points, layout):
            index, fraction = _corner_index(points[block], layout[levels])
            for entries, feature_gradient in zip(table, gradient, strict=True):
                corners = entries.index_select(0, index.view(-1)).view(index.shape)
                slopes = _slopes(corners, fraction, layout.cells[levels])
                slopes *= feature_gradient[levels, block]
                point_gradient[:, block] += slopes.sum(1)
        return point_gradient.T

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor
    ) -> tuple[None, Tensor, Tensor, None]:
        points, table, gradient = ctx.saved_tensors
        layout = ctx.layout
        per_level = gradient.unflatten(0, (table.shape[0], -1))
        table_gradient = torch.zeros_like(table)
        feature_gradient = torch.empty_like(per_level)
        for levels, block in _blocks(points, layout):
            index, fraction = _corner_index(points[block], layout[levels])
            flat = index.view(-1)
            direction = gradients[0][block].T[:, None] * layout.cells[levels]
            derivative = _spread_derivative(direction, fraction)
            for feature, entries in enumerate(table):
                corners = entries.index_select(0, flat).view(index.shape)
                feature_gradient[feature, levels, block] = (corners * derivative).sum((0, 1, 2))
                spread = derivative * per_level[feature, levels, block]
                table_gradient[feature].scatter_add_(0, flat, spread.view(-1))
        return None, table_gradient, feature_gradient.flatten(0, 1), None


def _blocks(points: Tensor, layout: GridLayout) -> Iterator[tuple[slice, slice]]:
    """Cut the work into levels and points that go through each operation together."""
    on_cpu = points.device.type == "cpu"
    levels = layout.cells.shape[0]
    level_step = 1 if on_cpu else levels
    size = _BLOCK_POINTS_CPU if on_cpu else max(1, _BLOCK_POINTS_GPU // levels)
    for level in range(0, levels, level_step):
        for start in range(0, points.shape[0], size):
            yield slice(level, level + level_step), slice(start, start + size)


def _corner_index(points: Tensor, layout: GridLayout) -> tuple[Tensor, Tensor]:
    """Return the table entries of the corners around `points`, and where between them these lie.

    Returns:
        Entries, "2 2 2 l n".
        Fractions of a cell along x, y, z, in [0, 1): "3 l n".
    """
    # Position in cells of each level; its integer part is the lower corner.
    position = points.T.contiguous().clamp(0.0, _LARGEST_BELOW_ONE)[:, None] * layout.cells
    cell = position.floor()
    fraction = position.sub_(cell)
    # Contribution of each axis to the index, for the lower and the upper corner along it.
    low = cell.int().mul_(layout.strides)
    both = torch.stack([low, low + layout.strides])  # 2 3 l n
    # Broadcasting along new leading axes combines them to the eight corners, z y x.
    split = layout.dense_levels
    index = low.new_empty(2, 2, 2, *low.shape[1:])
    if split:
        dense = both[:, :, :split]
        x, y, z = dense[:, 0] + layout.offsets[:split], dense[:, 1], dense[:, 2]
        torch.add((z[:, None] + y)[:, :, None], x, out=index[..., :split, :])
    if split < low.shape[1]:
        hashed = both[:, :, split:] & layout.hash_mask
        x, y, z = hashed[:, 0] | layout.offsets[split:], hashed[:, 1], hashed[:, 2]
        torch.bitwise_xor((z[:, None] ^ y)[:, :, None], x, out=index[..., split:, :])
    return index.long(), fraction  # int64 is read faster than int32


def _interpolate(corners: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate "2 2 2 l n" linearly along z, y, x to "l n"."""
    for axis in (2, 1, 0):
        corners = torch.lerp(corners[0], corners[1], fraction[axis])
    return corners


def _spread(gradient: Tensor, fraction: Tensor, out: Tensor) -> None:
    """Write into `out` what each corner gets of `gradient` (the transpose of `_interpolate`)."""
    for axis in (0, 1):
        upper = gradient * fraction[axis]
        gradient = torch.stack([gradient - upper, upper])  # corner axes grow to the left
    torch.mul(gradient, fraction[2], out=out[1])
    torch.sub(gradient, out[1], out=out[0])


def _slopes(corners: Tensor, fraction: Tensor, cells: Tensor) -> Tensor:
    """Return the derivatives of `_interpolate` along x, y, z as "3 l n"."""
    x, y, z = fraction
    along_z = corners[1] - corners[0]  # y x l n
    at_z = torch.lerp(corners[0], corners[1], z)
    along_y, at_y = at_z[1] - at_z[0], torch.lerp(at_z[0], at_z[1], y)
    along_z = torch.lerp(along_z[0], along_z[1], y)
    slopes = [
        at_y[1] - at_y[0],
        torch.lerp(along_y[0], along_y[1], x),
        torch.lerp(along_z[0], along_z[1], x),
    ]
    return torch.stack(slopes).mul_(cells)


def _spread_derivative(direction: Tensor, fraction: Tensor) -> Tensor:
    """Return the derivative of each corner's weight along `direction` ("3 l n", in cells).

    A corner's weight is a product over the axes of f (upper corner) or 1 - f (lower corner), with f
    the fraction. It is built axis by axis, together with its derivative by the product rule.
    """
    weight = torch.ones_like(fraction[0])  # weight over the axes so far, "2.. l n"
    derivative = torch.zeros_like(weight)
    for axis in range(3):
        # (w f)' = w' f + w f' with f' = direction: `step` is w f'.
        upper, step = fraction[axis], weight * direction[axis]
        upper_derivative = derivative * upper
        # (w (1 - f))' = w' - w' f - w f'. The new axis is first: corner axes end up z y x.
        derivative = torch.stack([derivative - upper_derivative - step, upper_derivative + step])
        upper_weight = weight * upper
        weight = torch.stack([weight - upper_weight, upper_weight])
    return derivative
