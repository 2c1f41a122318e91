"""The arithmetic of the hash grid in plain torch, and what a faster twin must offer.

Fast on a CPU because one level's table and the temporaries of a block of points stay in the cache
together, and the eight corners are the leading axes, so that every operation runs along contiguous
memory. On a GPU all levels and points go through each operation at once. No weights are formed:
corners are interpolated axis by axis, and gradients are spread the same way.

Symbols: n points, l levels, f features per level; corner axes are ordered z, y, x.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int32
from torch import Tensor

_BLOCK_POINTS_CPU = 16384  # points of one block: eight corners of a level fill 512 KiB
_BLOCK_POINTS_GPU = 1 << 22
LARGEST_BELOW_ONE = 1.0 - 2.0**-20  # keeps the last cell's index in range at 4096 cells


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


@runtime_checkable
class GridKernels(Protocol):
    """The four functions of a hash grid, without a graph.

    Points are in the unit cube ("n 3"; coordinates outside are clamped), the table is "f entries",
    features and their gradients are "f l n".
    """

    def features(self, points: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        """Return the interpolated table entries."""
        ...

    def table_gradient(
        self, points: Tensor, table: Tensor, gradient: Tensor, layout: GridLayout
    ) -> Tensor:
        """Return the gradient of the table under the gradient of the features."""
        ...

    def point_gradient(
        self, points: Tensor, table: Tensor, gradient: Tensor, layout: GridLayout
    ) -> Tensor:
        """Return the gradient of the points, "n 3", under the gradient of the features."""
        ...

    def second_gradients(
        self,
        points: Tensor,
        table: Tensor,
        gradient: Tensor,
        direction: Tensor,
        layout: GridLayout,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of table and features' gradient under that of `point_gradient`.

        Args:
            direction: The gradient of `point_gradient`, "n 3".
        """
        ...


class PlainKernels(GridKernels):
    """Plain torch: every device, every precision, and the twin of what is faster."""

    def features(self, points: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        """Return the interpolated table entries."""
        features = table.new_empty(table.shape[0], layout.cells.shape[0], points.shape[0])
        for levels, block in _blocks(points, layout):
            index, fraction = _corner_index(points[block], layout[levels])
            for entries, out in zip(table, features, strict=True):
                corners = entries.index_select(0, index.view(-1)).view(index.shape)
                out[levels, block] = _interpolate(corners, fraction)
        return features

    def table_gradient(
        self, points: Tensor, table: Tensor, gradient: Tensor, layout: GridLayout
    ) -> Tensor:
        """Return the gradient of the table under the gradient of the features."""
        table_gradient = torch.zeros_like(table)
        for levels, block in _blocks(points, layout):
            index, fraction = _corner_index(points[block], layout[levels])
            spread = torch.empty(index.shape, dtype=gradient.dtype, device=gradient.device)
            for entries_gradient, feature_gradient in zip(table_gradient, gradient, strict=True):
                _spread(feature_gradient[levels, block], fraction, out=spread)
                entries_gradient.scatter_add_(0, index.view(-1), spread.view(-1))
        return table_gradient

    def point_gradient(
        self, points: Tensor, table: Tensor, gradient: Tensor, layout: GridLayout
    ) -> Tensor:
        """Return the gradient of the points, "n 3", under the gradient of the features."""
        point_gradient = points.new_zeros(3, points.shape[0])
        for levels, block in _blocks(points, layout):
            index, fraction = _corner_index(points[block], layout[levels])
            for entries, feature_gradient in zip(table, gradient, strict=True):
                corners = entries.index_select(0, index.view(-1)).view(index.shape)
                slopes = _slopes(corners, fraction, layout.cells[levels])
                slopes *= feature_gradient[levels, block]
                point_gradient[:, block] += slopes.sum(1)
        return point_gradient.T

    def second_gradients(
        self,
        points: Tensor,
        table: Tensor,
        gradient: Tensor,
        direction: Tensor,
        layout: GridLayout,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of table and features' gradient under that of `point_gradient`."""
        table_gradient = torch.zeros_like(table)
        feature_gradient = torch.empty_like(gradient)
        for levels, block in _blocks(points, layout):
            index, fraction = _corner_index(points[block], layout[levels])
            flat = index.view(-1)
            along = direction[block].T[:, None] * layout.cells[levels]
            derivative = _spread_derivative(along, fraction)
            for feature, entries in enumerate(table):
                corners = entries.index_select(0, flat).view(index.shape)
                feature_gradient[feature, levels, block] = (corners * derivative).sum((0, 1, 2))
                spread = derivative * gradient[feature, levels, block]
                table_gradient[feature].scatter_add_(0, flat, spread.view(-1))
        return table_gradient, feature_gradient


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
    position = points.T.contiguous().clamp(0.0, LARGEST_BELOW_ONE)[:, None] * layout.cells
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
