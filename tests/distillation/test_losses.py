"""Each term of the loss has the value and the gradient its definition gives."""

import math
from dataclasses import replace

import pytest
import torch

from zeronvs._core.random import seeded_generator
from zeronvs.distillation.losses import (
    LossWeights,
    clearance_loss,
    depth_error,
    free_space_loss,
    normal_smoothness_loss,
    opaque_loss,
    robust_error,
)
from zeronvs.distillation.supervision import PixelBatch
from zeronvs.scene.field import RadianceField


def test_the_default_weights_are_the_published_ones():
    weights = LossWeights()
    published = (0.1, 1500.0, 8.0, 5.0, 0.0)
    assert (
        weights.sds,
        weights.rgb,
        weights.normal_smoothness,
        weights.orientation,
        weights.opaque,
    ) == published
    assert weights.needs_normals
    assert not LossWeights(normal_smoothness=0.0, orientation=0.0).needs_normals


def test_a_flat_normal_map_is_smooth_and_a_step_costs_a_quarter_of_its_square():
    flat, solid = torch.ones(1, 3, 4, 4), torch.ones(1, 4, 4)
    assert normal_smoothness_loss(flat, solid) == 0
    stepped = flat.clone()
    stepped[..., 2:] += 2.0
    assert normal_smoothness_loss(stepped, solid) == pytest.approx(1.0 / 3.0)
    assert normal_smoothness_loss(stepped, 0.1 * solid) == pytest.approx(0.01 / 3.0)


def test_the_smoothness_and_its_gradient_are_those_of_the_published_expression():
    """Numbers of the published expression in float64, on inputs that a formula gives."""
    height, width = 4, 5
    index = torch.arange(height * width * 3, dtype=torch.float64).view(1, height, width, 3)
    total = torch.sin(1.7 * index + 0.3).movedim(-1, 1).requires_grad_()
    index = torch.arange(height * width, dtype=torch.float64).view(1, height, width)
    opacity = (0.5 + 0.5 * torch.cos(0.9 * index)).requires_grad_()
    normal = torch.nn.functional.normalize(total, dim=1)
    loss = normal_smoothness_loss(normal, opacity)
    loss.backward()
    assert loss.item() == pytest.approx(0.16599971961867127)
    assert total.grad.norm().item() == pytest.approx(0.04792086, rel=1e-6)
    assert opacity.grad.norm().item() == pytest.approx(0.19590787, rel=1e-6)
    assert total.grad[0, :, 1, 2].tolist() == pytest.approx(
        [0.01242044, 0.01227970, 0.01241231], rel=1e-6
    )
    assert opacity.grad[0, 1, 2].item() == pytest.approx(0.07838748, rel=1e-6)


def test_opacity_is_cheapest_when_clear_or_solid_and_costs_ln_2_at_half():
    assert opaque_loss(torch.full((8,), 0.5)) == pytest.approx(math.log(2))
    assert opaque_loss(torch.tensor([0.0, 1.0])) < 0.01


def test_the_robust_errors_agree_with_the_square_up_to_the_knee_and_then_pull_with_constant_force():
    residual = torch.tensor([-0.05, 0.1, 0.5, -2.0], requires_grad=True)
    huber = robust_error(residual, "huber", 0.1)
    torch.testing.assert_close(huber[:2], residual[:2].square())
    (force,) = torch.autograd.grad(huber.sum(), residual)
    torch.testing.assert_close(force, torch.tensor([-0.1, 0.2, 0.2, -0.2]))
    torch.testing.assert_close(
        robust_error(residual, "absolute", 0.1), 0.1 * residual.detach().abs()
    )


def test_depth_errors_are_the_same_near_and_far_and_unknown_depth_is_free():
    error = depth_error(torch.tensor([1.1, 11.0, 3.0]), torch.tensor([1.0, 10.0, 0.0]))
    assert error[0] == pytest.approx(error[1].item(), rel=1e-5)
    assert error[0] > 0
    assert error[2] == 0


def test_a_depth_that_starts_at_zero_does_not_break_the_loss():
    depth_z = torch.zeros(1, requires_grad=True)
    error = depth_error(depth_z, torch.ones(1)).sum()
    error.backward()
    assert torch.isfinite(error)
    assert torch.isfinite(depth_z.grad).all()


class Fog(RadianceField):
    """The same density everywhere on one side of a plane, and nothing on the other."""

    def __init__(self, density, starts_at_x):
        self.value, self.starts_at_x = density, starts_at_x

    def density(self, points):
        return self.value * (points[..., 0] > self.starts_at_x).float()

    def color(self, points):
        return torch.zeros_like(points)


def rays_along_x(depth_z):
    count = len(depth_z)
    directions = torch.tensor([[1.0, 0.0, 0.0]]).expand(count, 3)
    one = torch.ones(count)
    return PixelBatch(torch.zeros(count, 3), directions, one, torch.zeros(count, 3), depth_z, one)


def test_content_before_the_known_depth_costs_the_light_it_takes():
    pixels = rays_along_x(torch.full((64,), 2.0))
    everywhere = free_space_loss(Fog(0.4, -1.0), pixels, 0.2, seeded_generator(0))
    assert everywhere == pytest.approx(1 - math.exp(-0.4 * (0.85 * 2.0 - 0.2)), rel=1e-4)


def test_content_behind_the_known_depth_and_on_rays_of_unknown_depth_is_free():
    known = rays_along_x(torch.full((64,), 2.0))
    assert free_space_loss(Fog(9.0, 1.8), known, 0.2, seeded_generator(0)) == 0
    unknown = rays_along_x(torch.zeros(64))
    assert free_space_loss(Fog(9.0, -1.0), unknown, 0.2, seeded_generator(0)) == 0


def test_content_before_a_camera_that_no_view_stands_at_costs_the_light_it_takes():
    """All known rays start at x = -1 and look at the origin; fog begins at x = 0.3."""
    origins = torch.tensor([[-1.0, 0.0, 0.0]]).expand(256, 3)
    directions, fog = -origins, Fog(2.0, 0.3)
    near_home = clearance_loss(fog, origins, directions, 1.0, seeded_generator(0))
    assert near_home == 0
    everywhere = clearance_loss(Fog(2.0, -9.0), origins, directions, 1.0, seeded_generator(0))
    assert everywhere == pytest.approx(1 - math.exp(-2.0 * 0.25), rel=1e-4)
    all_round = clearance_loss(fog, origins, directions, math.pi, seeded_generator(0))
    assert 0 < float(all_round) < float(everywhere)


@pytest.mark.parametrize("knee", [0.1, 0.3])
def test_the_huber_penalty_has_no_step_at_its_knee_and_is_straight_beyond(knee):
    around = knee * torch.tensor([1.0 - 1e-6, 1.0 + 1e-6])
    torch.testing.assert_close(robust_error(around, "huber", knee), around.square())
    beyond = torch.tensor([2.0, -5.0]) * knee
    expected = knee**2 * torch.tensor([3.0, 9.0])  # knee^2 + 2 knee (|d| - knee)
    torch.testing.assert_close(robust_error(beyond, "huber", knee), expected)


def test_the_depth_penalty_is_the_huber_of_the_log_ratio():
    error = depth_error(torch.tensor([1.05, 4.0]), torch.tensor([1.0, 2.0]))
    log_ratio = math.log(1.05), math.log(2.0)
    assert error[0] == pytest.approx(log_ratio[0] ** 2, rel=1e-4)
    assert error[1] == pytest.approx(0.1 * (2 * log_ratio[1] - 0.1), rel=1e-4)


def test_distrusted_rays_cost_less_before_the_known_depth():
    pixels = rays_along_x(torch.full((64,), 2.0))
    half = replace(pixels, trust=torch.full((64,), 0.5))
    whole = free_space_loss(Fog(0.4, -1.0), pixels, 0.2, seeded_generator(0))
    assert free_space_loss(Fog(0.4, -1.0), half, 0.2, seeded_generator(0)) == pytest.approx(
        0.5 * whole.item()
    )


@pytest.mark.parametrize("name", ["normal_smoothness", "orientation"])
def test_any_weight_on_a_term_of_normals_needs_normals(name):
    off = {"normal_smoothness": 0.0, "orientation": 0.0}
    assert LossWeights(**(off | {name: 0.5})).needs_normals


def test_a_step_down_and_a_step_across_cost_the_same():
    across = torch.zeros(1, 3, 4, 4)
    across[..., 2:] = 1.5
    down = across.mT.contiguous()
    solid = torch.ones(1, 4, 4)
    assert normal_smoothness_loss(down, solid) == normal_smoothness_loss(across, solid) > 0
