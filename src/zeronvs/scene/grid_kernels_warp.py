"""The hash grid as four fused kernels by NVIDIA Warp, on CUDA and on a CPU.

One thread per point and level holds the eight corners of its cell in registers, so that nothing but
points, table and results goes through memory, which Warp shares with torch. Warp brings its
compiler; the kernels are compiled at their first use (seconds), into its folder in the user's cache
(`warp.config.kernel_cache_dir`).

Importing this module needs Warp. Sums into the table are atomic on CUDA, in an order that varies:
results differ in the last digits from run to run, as those of torch's `scatter_add_` do. On a CPU
they are the same each time, as a level belongs to one thread.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor

from zeronvs.scene.grid_kernels import LARGEST_BELOW_ONE, GridKernels, GridLayout

_Entries = wp.types.vector(length=8, dtype=wp.uint32)
_Weights = wp.types.vector(length=8, dtype=wp.float32)
_LARGEST = wp.constant(LARGEST_BELOW_ONE)
_SINGLE_THREAD_POINTS = 2048  # on a CPU; fewer are done before threads have begun
wp.set_module_options({"enable_backward": False})


def warp_kernels(device: torch.device) -> "WarpKernels | None":
    """Return the kernels, compiled for a device; None where Warp does not support it.

    Warp needs a driver for its own CUDA version or newer, and knows no AMD GPU.
    """
    try:
        with _silent():
            wp.init()
            wp.load_module(__name__, device=wp.get_device(str(device)))
    except (RuntimeError, ValueError, OSError):
        return None
    return WarpKernels()


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress what Warp prints at its start and when it compiles.

    Its library writes past Python that there is no CUDA driver, hence the file descriptor.
    """
    level, stderr = wp.config.log_level, os.dup(2)
    wp.config.log_level = wp.LOG_ERROR
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        wp.config.log_level = level


class WarpKernels(GridKernels):
    """The fused kernels, for tables in float32; `warp_kernels` compiles them."""

    def features(self, points: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        """Return the interpolated table entries."""
        levels, count = layout.cells.shape[0], points.shape[0]
        features = table.new_empty(table.shape[0], levels, count)

        def part(levels: slice) -> None:
            _launch(_features, points, table, layout[levels], features[:, levels])

        _in_parts(part, _cut(points, levels))
        return features

    def table_gradient(
        self, points: Tensor, table: Tensor, gradient: Tensor, layout: GridLayout
    ) -> Tensor:
        """Return the gradient of the table under the gradient of the features."""
        table_gradient = torch.zeros_like(table)

        def part(levels: slice) -> None:
            _launch(_table_gradient, points, table_gradient, layout[levels], gradient[:, levels])

        _in_parts(part, _cut(points, gradient.shape[1]))
        return table_gradient

    def point_gradient(
        self, points: Tensor, table: Tensor, gradient: Tensor, layout: GridLayout
    ) -> Tensor:
        """Return the gradient of the points, "n 3", under the gradient of the features."""
        point_gradient = torch.empty_like(points)

        def part(block: slice) -> None:
            rest = (gradient[..., block], point_gradient[block])
            _launch(_point_gradient, points[block], table, layout, *rest, each_level=False)

        _in_parts(part, _cut(points, points.shape[0]))
        return point_gradient

    def second_gradients(
        self,
        points: Tensor,
        table: Tensor,
        gradient: Tensor,
        direction: Tensor,
        layout: GridLayout,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of table and features' gradient under that of `point_gradient`."""
        table_gradient, feature_gradient = torch.zeros_like(table), torch.empty_like(gradient)

        def part(levels: slice) -> None:
            rest = (gradient[:, levels], direction, table_gradient, feature_gradient[:, levels])
            _launch(_second_gradients, points, table, layout[levels], *rest)

        _in_parts(part, _cut(points, gradient.shape[1]))
        return table_gradient, feature_gradient


def _cut(points: Tensor, length: int) -> list[slice]:
    """Cut levels or points into parts for the threads of a CPU; Warp uses one thread a launch."""
    threads = torch.get_num_threads()
    if points.device.type != "cpu" or threads == 1 or len(points) < _SINGLE_THREAD_POINTS:
        return [slice(0, length)]
    # Four parts a thread: fine levels miss the cache and take longer than coarse ones.
    step = -(-length // (4 * threads))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _in_parts(run: Callable[[slice], None], parts: list[slice]) -> None:
    """Call a function on each part, several at a time."""
    if len(parts) == 1:
        run(parts[0])
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(run, parts))


def _launch(
    kernel: Any,
    points: Tensor,
    table: Tensor,
    layout: GridLayout,
    *rest: Tensor,
    each_level: bool = True,
) -> None:
    """Run a kernel on the tensors' device, on CUDA in torch's current stream."""
    places = (layout.cells[:, 0], layout.strides[..., 0], layout.offsets[:, 0])
    arrays = [
        wp.from_torch(tensor.detach(), requires_grad=False, return_ctype=True)
        for tensor in (points, table, *places, *rest)
    ]
    inputs = [*arrays[:5], layout.dense_levels, layout.hash_mask, *arrays[5:]]
    device = wp.device_from_torch(points.device)
    stream = wp.stream_from_torch(points.device) if device.is_cuda else None
    size = (points.shape[0],)
    size = (layout.cells.shape[0], *size) if each_level else size
    wp.launch(kernel, dim=size, inputs=inputs, device=device, stream=stream)


@wp.func
@no_type_check
def _cell(points: wp.array2d(dtype=float), point: int, cells: float):  # noqa: ANN202
    """Return the lower corner of the point's cell, and where in the cell the point lies."""
    cell, fraction = wp.vec3(), wp.vec3()
    for axis in range(3):
        position = wp.float32(0.0)
        if points[point, axis] > 0.0:  # false for NaN too, which must not become an index
            position = wp.min(points[point, axis], _LARGEST) * cells
        cell[axis] = wp.floor(position)
        fraction[axis] = position - cell[axis]
    return cell, fraction


@wp.func
@no_type_check
def _entries(
    cell: wp.vec3,
    level: int,
    strides: wp.array2d(dtype=wp.int32),
    offsets: wp.array(dtype=wp.int32),
    dense_levels: int,
    hash_mask: int,
) -> _Entries:
    """Return the table entries of the eight corners (Eq. 4), x fastest."""
    stride_x = wp.uint32(strides[0, level])
    stride_y = wp.uint32(strides[1, level])
    stride_z = wp.uint32(strides[2, level])
    x = wp.uint32(wp.int32(cell[0])) * stride_x
    y = wp.uint32(wp.int32(cell[1])) * stride_y
    z = wp.uint32(wp.int32(cell[2])) * stride_z
    entries = _Entries()
    for corner in range(8):
        at_x = x + wp.uint32(corner & 1) * stride_x
        at_y = y + wp.uint32((corner >> 1) & 1) * stride_y
        at_z = z + wp.uint32(corner >> 2) * stride_z
        if level < dense_levels:
            entries[corner] = at_x + at_y + at_z + wp.uint32(offsets[level])
        else:
            entries[corner] = (at_x ^ at_y ^ at_z) & wp.uint32(hash_mask)
            entries[corner] += wp.uint32(offsets[level])
    return entries


@wp.func
@no_type_check
def _share(corner: int, axis: int, fraction: wp.vec3) -> float:
    """Return a corner's weight along an axis."""
    if ((corner >> axis) & 1) == 1:
        return fraction[axis]
    return 1.0 - fraction[axis]


@wp.func
@no_type_check
def _sign(corner: int, axis: int) -> float:
    """Return the derivative of a corner's weight along an axis."""
    return float(2 * ((corner >> axis) & 1) - 1)


@wp.kernel
@no_type_check
def _features(
    points: wp.array2d(dtype=float),
    table: wp.array2d(dtype=float),
    cells: wp.array(dtype=float),
    strides: wp.array2d(dtype=wp.int32),
    offsets: wp.array(dtype=wp.int32),
    dense_levels: int,
    hash_mask: int,
    features: wp.array3d(dtype=float),
) -> None:
    level, point = wp.tid()
    cell, fraction = _cell(points, point, cells[level])
    entries = _entries(cell, level, strides, offsets, dense_levels, hash_mask)
    for feature in range(table.shape[0]):
        value = wp.float32(0.0)
        for corner in range(8):
            weight = _share(corner, 0, fraction) * _share(corner, 1, fraction)
            value += weight * _share(corner, 2, fraction) * table[feature, int(entries[corner])]
        features[feature, level, point] = value


@wp.kernel
@no_type_check
def _table_gradient(
    points: wp.array2d(dtype=float),
    table_gradient: wp.array2d(dtype=float),
    cells: wp.array(dtype=float),
    strides: wp.array2d(dtype=wp.int32),
    offsets: wp.array(dtype=wp.int32),
    dense_levels: int,
    hash_mask: int,
    gradient: wp.array3d(dtype=float),
) -> None:
    level, point = wp.tid()
    cell, fraction = _cell(points, point, cells[level])
    entries = _entries(cell, level, strides, offsets, dense_levels, hash_mask)
    for feature in range(table_gradient.shape[0]):
        value = gradient[feature, level, point]
        for corner in range(8):
            weight = _share(corner, 0, fraction) * _share(corner, 1, fraction)
            weight *= _share(corner, 2, fraction)
            wp.atomic_add(table_gradient, feature, int(entries[corner]), weight * value)


@wp.kernel
@no_type_check
def _point_gradient(
    points: wp.array2d(dtype=float),
    table: wp.array2d(dtype=float),
    cells: wp.array(dtype=float),
    strides: wp.array2d(dtype=wp.int32),
    offsets: wp.array(dtype=wp.int32),
    dense_levels: int,
    hash_mask: int,
    gradient: wp.array3d(dtype=float),
    point_gradient: wp.array2d(dtype=float),
) -> None:
    point = wp.tid()
    total = wp.vec3()
    for level in range(cells.shape[0]):
        cell, fraction = _cell(points, point, cells[level])
        entries = _entries(cell, level, strides, offsets, dense_levels, hash_mask)
        # The slopes are linear in the entries: the features are summed at the corners first.
        at_corner = _Weights()
        for feature in range(table.shape[0]):
            value = gradient[feature, level, point]
            for corner in range(8):
                at_corner[corner] += value * table[feature, int(entries[corner])]
        slope = wp.vec3()
        for corner in range(8):
            in_x, in_y = _share(corner, 0, fraction), _share(corner, 1, fraction)
            in_z = _share(corner, 2, fraction)
            slope += at_corner[corner] * wp.vec3(
                _sign(corner, 0) * in_y * in_z,
                in_x * _sign(corner, 1) * in_z,
                in_x * in_y * _sign(corner, 2),
            )
        total += cells[level] * slope
    for axis in range(3):
        point_gradient[point, axis] = total[axis]


@wp.kernel
@no_type_check
def _second_gradients(
    points: wp.array2d(dtype=float),
    table: wp.array2d(dtype=float),
    cells: wp.array(dtype=float),
    strides: wp.array2d(dtype=wp.int32),
    offsets: wp.array(dtype=wp.int32),
    dense_levels: int,
    hash_mask: int,
    gradient: wp.array3d(dtype=float),
    direction: wp.array2d(dtype=float),
    table_gradient: wp.array2d(dtype=float),
    feature_gradient: wp.array3d(dtype=float),
) -> None:
    level, point = wp.tid()
    cell, fraction = _cell(points, point, cells[level])
    entries = _entries(cell, level, strides, offsets, dense_levels, hash_mask)
    along_x = direction[point, 0] * cells[level]
    along_y = direction[point, 1] * cells[level]
    along_z = direction[point, 2] * cells[level]
    derivative = _Weights()  # of each corner's weight along the direction
    for corner in range(8):
        in_x, in_y = _share(corner, 0, fraction), _share(corner, 1, fraction)
        in_z = _share(corner, 2, fraction)
        derivative[corner] = (
            along_x * _sign(corner, 0) * in_y * in_z
            + in_x * along_y * _sign(corner, 1) * in_z
            + in_x * in_y * along_z * _sign(corner, 2)
        )
    for feature in range(table.shape[0]):
        upstream = gradient[feature, level, point]
        value = wp.float32(0.0)
        for corner in range(8):
            entry = int(entries[corner])
            value += derivative[corner] * table[feature, entry]
            wp.atomic_add(table_gradient, feature, entry, derivative[corner] * upstream)
        feature_gradient[feature, level, point] = value
