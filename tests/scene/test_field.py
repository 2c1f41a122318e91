"""The field: contraction, activations, blob, and its analytic gradient."""

import pytest
import torch

from zeronvs.scene.field import FieldConfig, HashGridField, RadianceField, contract
from zeronvs.scene.hash_grid import HashGridConfig

TINY = FieldConfig(grid=HashGridConfig(levels=3, log2_table_size=8, base_resolution=4), radius=2.0)


def tiny_field(config=TINY, seed=0):
    field = HashGridField(config, torch.Generator().manual_seed(seed))
    torch.nn.init.normal_(field.grid.table, generator=torch.Generator().manual_seed(seed))
    return field


def random_points(count=64, spread=2.0, seed=1):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * spread


def test_contraction_is_linear_inside_and_keeps_all_of_space_in_the_unit_cube():
    inside = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    expected = torch.tensor([[0.5, 0.5, 0.5], [0.75, 0.5, 0.5], [0.5, 0.375, 0.5]])
    torch.testing.assert_close(contract(inside, 2.0), expected)
    far = contract(torch.tensor([[1e6, 0.0, 0.0], [0.0, 0.0, -4.0]]), 2.0)
    torch.testing.assert_close(far, torch.tensor([[1.0, 0.5, 0.5], [0.5, 0.5, 0.125]]))


def test_contraction_keeps_directions_and_the_order_of_distances():
    distances = torch.linspace(0.1, 50, 200)
    direction = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -3.0]), dim=0)
    mapped = contract(distances[:, None] * direction, 2.0) - 0.5
    assert (mapped.norm(dim=-1).diff() > 0).all()
    torch.testing.assert_close(
        torch.nn.functional.normalize(mapped, dim=-1), direction.expand(200, 3)
    )


def test_density_is_not_negative_and_colour_lies_in_the_unit_range():
    field, points = tiny_field(), random_points()
    assert (field.density(points) >= 0).all()
    assert ((field.color(points) >= 0) & (field.color(points) <= 1)).all()


def test_a_fresh_field_is_a_blob_at_the_origin():
    field = HashGridField(TINY)
    at = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [3.0, 0.0, 0.0]])
    expected = torch.nn.functional.softplus(torch.tensor([5.0, 0.0, -25.0]))
    torch.testing.assert_close(field.density(at), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("config", [TINY, FieldConfig.small()], ids=["published", "small"])
def test_sampling_at_once_equals_asking_one_by_one(config):
    field, points = tiny_field(config), random_points().view(4, 16, 3)
    sample = field.sample(points, with_gradient=True)
    torch.testing.assert_close(sample.density, field.density(points))
    torch.testing.assert_close(sample.color, field.color(points))
    assert sample.density_gradient.shape == points.shape


def test_the_analytic_gradient_equals_automatic_differentiation_with_its_second_derivatives():
    field, points = tiny_field(), random_points()
    plain = RadianceField.sample(field, points, with_gradient=True).density_gradient
    fast = field.sample(points, with_gradient=True).density_gradient
    torch.testing.assert_close(fast, plain, atol=1e-3, rtol=1e-3)
    weights = [field.grid.table, *field.density_head.weights]
    target = torch.randn(points.shape, generator=torch.Generator().manual_seed(3))
    by_plain = torch.autograd.grad((plain * target).sum(), weights)
    by_fast = torch.autograd.grad((fast * target).sum(), weights)
    torch.testing.assert_close(by_fast, by_plain, atol=1e-2, rtol=1e-3)


def test_the_gradient_can_be_had_without_a_graph():
    field, points = tiny_field(), random_points()
    with torch.no_grad():
        sample = field.sample(points, with_gradient=True)
    with_graph = field.sample(points, with_gradient=True)
    torch.testing.assert_close(sample.density_gradient, with_graph.density_gradient)
    assert not sample.density.requires_grad
    assert not sample.density_gradient.requires_grad
    assert with_graph.density_gradient.requires_grad


def test_the_same_seed_gives_the_same_field():
    first, second = (HashGridField(TINY, torch.Generator().manual_seed(5)) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
