"""The fast hash grid against a plain one that follows the paper line by line."""

import itertools

import pytest
import torch

from zeronvs.scene import hash_grid
from zeronvs.scene.hash_grid import HashGrid, HashGridConfig

MIXED = HashGridConfig(levels=4, log2_table_size=8, base_resolution=4, growth=1.9)
DENSE = HashGridConfig(levels=2, log2_table_size=12, base_resolution=4, growth=2.0)
HASHED = HashGridConfig(
    levels=2, features_per_level=3, log2_table_size=5, base_resolution=9, growth=2.0
)


def plain_features(grid, points):
    """Instant-NGP, section 3, one level and one corner at a time, in differentiable torch."""
    config, layout = grid.config, grid.layout
    table_size = 2**config.log2_table_size
    columns = []
    for level, resolution in enumerate(config.resolutions):
        position = points * (resolution - 1)
        cell = position.floor().clamp(max=resolution - 2)
        fraction = position - cell
        value = 0.0
        for corner in itertools.product((0, 1), repeat=3):
            vertex = cell.long() + torch.tensor(corner)
            if resolution**3 <= table_size:
                strides = torch.tensor([1, resolution, resolution**2])
                entry = (vertex * strides).sum(-1)
            else:
                x, y, z = (vertex * torch.tensor([1, 2654435761, 805459861])).unbind(-1)
                entry = (x ^ y ^ z) % table_size
            weight = torch.where(torch.tensor(corner) == 1, fraction, 1 - fraction).prod(-1)
            value = value + weight * grid.table[:, entry + layout.offsets[level].long()]
        columns.append(value)
    return torch.stack(columns, dim=1).reshape(-1, points.shape[0])


def random_grid(config, seed=0):
    grid = HashGrid(config)
    torch.nn.init.normal_(grid.table, generator=torch.Generator().manual_seed(seed))
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(seed + 1)) * 0.99
    return grid, points


@pytest.fixture(params=[MIXED, DENSE, HASHED], ids=["mixed", "dense", "hashed"])
def grid_and_points(request):
    return random_grid(request.param)


def test_features_equal_those_of_the_plain_grid(grid_and_points):
    grid, points = grid_and_points
    torch.testing.assert_close(grid(points), plain_features(grid, points), atol=1e-4, rtol=1e-4)


def test_gradients_equal_those_of_the_plain_grid(grid_and_points):
    grid, points = grid_and_points
    points.requires_grad_(True)
    mix = torch.randn(grid.feature_count, len(points))
    fast = torch.autograd.grad((grid(points) * mix).sum(), [grid.table, points])
    plain = torch.autograd.grad((plain_features(grid, points) * mix).sum(), [grid.table, points])
    torch.testing.assert_close(fast, plain, atol=1e-3, rtol=1e-4)


def test_gradients_of_the_spatial_gradient_equal_those_of_the_plain_grid(grid_and_points):
    grid, points = grid_and_points
    points.requires_grad_(True)
    mix = torch.randn(grid.feature_count, len(points), requires_grad=True)
    target = torch.randn(len(points), 3)

    def second_derivatives(spatial_gradient):
        return torch.autograd.grad((spatial_gradient * target).sum(), [grid.table, mix])

    value = (plain_features(grid, points) * mix).sum()
    (plain,) = torch.autograd.grad(value, points, create_graph=True)
    fast = grid.spatial_gradient(points.detach(), mix)
    torch.testing.assert_close(fast, plain, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(
        second_derivatives(fast), second_derivatives(plain), atol=1e-3, rtol=1e-4
    )


def test_the_cut_into_blocks_changes_nothing(monkeypatch):
    grid, points = random_grid(MIXED)
    whole = grid(points)
    monkeypatch.setattr(hash_grid, "_BLOCK_POINTS_CPU", 7)
    torch.testing.assert_close(grid(points), whole)


def test_points_outside_the_cube_are_clamped_to_its_faces():
    grid, _ = random_grid(MIXED)
    outside = torch.tensor([[-3.0, 0.5, 0.5], [0.5, 1.0, 7.0]])
    torch.testing.assert_close(grid(outside), grid(outside.clamp(0, 1)))


def test_the_published_grid_has_16_levels_up_to_4096():
    resolutions = HashGridConfig().resolutions
    assert (len(resolutions), resolutions[0]) == (16, 16)
    assert abs(resolutions[-1] - 4096) <= 1
    proposal = HashGridConfig(levels=5, growth=1.68).resolutions
    assert abs(proposal[-1] - 128) <= 1


def test_no_points_give_no_features():
    grid, _ = random_grid(MIXED)
    assert grid(torch.zeros(0, 3)).shape == (grid.feature_count, 0)


def test_the_table_starts_uniform_within_a_ten_thousandth():
    table = HashGrid(MIXED, torch.Generator().manual_seed(0)).table.detach()
    assert float(table.abs().max()) <= 1e-4
    assert float(table.std()) == pytest.approx(1e-4 / 3**0.5, rel=0.05)
    assert float(table.mean().abs()) < 5e-6
