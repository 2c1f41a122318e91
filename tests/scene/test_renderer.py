"""Laws of volume rendering, on fields whose image is known in closed form."""

import math

import pytest
import torch

from zeronvs.scene import renderer
from zeronvs.scene.field import RadianceField
from zeronvs.scene.proposal import distance_of, even_edges
from zeronvs.scene.renderer import (
    RayLosses,
    RenderConfig,
    join_rays,
    march_rays,
    ray_weights,
)

EVEN = RenderConfig(near=0.5, far=8.0, proposal_samples=0, final_samples=64)


class Fog(RadianceField):
    """The same density and colour everywhere inside of a sphere around the origin."""

    def __init__(self, density, radius=math.inf, color=(0.2, 0.5, 0.9)):
        self.value, self.radius, self.rgb = density, radius, torch.tensor(color)

    def density(self, points):
        return self.value * (points.norm(dim=-1) < self.radius).float()

    def color(self, points):
        return self.rgb.expand(points.shape)


class SoftBall(Fog):
    """A ball whose density falls smoothly to zero at its surface."""

    def density(self, points):
        return self.value * torch.sigmoid((self.radius - points.norm(dim=-1)) * 20.0)


def rays_from(position, count=16, spread=0.2, seed=0):
    """Rays from `position` roughly towards the origin."""
    origins = torch.tensor(position).expand(count, 3)
    noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * spread
    return origins, torch.nn.functional.normalize(noise - origins, dim=-1)


@pytest.mark.parametrize("density", [0.0, 0.05, 1.0, 40.0])
def test_even_fog_absorbs_by_the_law_of_beer_and_lambert(density):
    origins, directions = rays_from([3.0, 0.0, 0.0])
    seen = march_rays(Fog(density), None, origins, directions, EVEN)
    expected = 1.0 - math.exp(-density * (EVEN.far - EVEN.near))
    torch.testing.assert_close(seen.opacity, torch.full((16,), expected))
    torch.testing.assert_close(seen.rgb, expected * torch.tensor([0.2, 0.5, 0.9]).expand(16, 3))


def test_the_accumulated_distance_of_even_fog_is_its_integral_and_zero_in_empty_space():
    """Integral of t s exp(-s (t - near)) from near to far."""
    origins, directions = rays_from([3.0, 0.0, 0.0])
    config = RenderConfig(near=0.5, far=8.0, proposal_samples=0, final_samples=2048)
    for density in (0.0, 0.3, 4.0):
        seen = march_rays(Fog(density), None, origins, directions, config)
        left, length = math.exp(-density * 7.5), 1.0 / max(density, 1e-9)
        expected = 0.0 if density == 0 else (0.5 + length) - left * (8.0 + length)
        torch.testing.assert_close(
            seen.accumulated_distance, torch.full((16,), expected), rtol=1e-3, atol=1e-6
        )


def test_weights_add_up_to_the_opacity_and_lie_in_the_unit_range():
    generator = torch.Generator().manual_seed(0)
    density = torch.rand(100, 32, generator=generator).exp() * 10 ** torch.randn(
        100, 1, generator=generator
    )
    edges = distance_of(even_edges(100, 32, None, density), 0.5, 1000.0)
    weights = ray_weights(density, edges)
    total = (density * edges.diff(dim=-1)).sum(-1)
    torch.testing.assert_close(weights.sum(-1), 1.0 - torch.exp(-total))
    assert weights.min() >= 0
    assert weights.sum(-1).max() <= 1 + 1e-5


def test_background_shines_through_what_is_left():
    origins, directions = rays_from([3.0, 0.0, 0.0])
    background = torch.rand(16, 3)
    bare = march_rays(Fog(0.1), None, origins, directions, EVEN)
    seen = march_rays(Fog(0.1), None, origins, directions, EVEN, background=background)
    torch.testing.assert_close(seen.rgb, bare.rgb + (1 - bare.opacity[:, None]) * background)


def test_an_opaque_sphere_is_seen_at_its_surface():
    origins, directions = rays_from([3.0, 0.0, 0.0])
    ball = Fog(1000.0, radius=1.0)
    config = RenderConfig(near=0.5, far=8.0, proposal_samples=256, final_samples=256)
    half = torch.full((16, 1), 0.5)
    seen = march_rays(ball, ball.density, origins, directions, config, quantile=half)
    along = -(origins * directions).sum(-1)
    expected = along - (1.0 - (9.0 - along.square())).sqrt()
    torch.testing.assert_close(seen.distance, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(seen.quantile_distance, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(seen.opacity, torch.ones(16))


def test_normals_of_a_ball_point_away_from_its_centre():
    origins, directions = rays_from([3.0, 0.0, 0.0], spread=0.1)
    ball = SoftBall(100.0, radius=1.0)
    seen = march_rays(ball, ball.density, origins, directions, EVEN, with_normals=True)
    surface = origins + directions * seen.distance[:, None]
    cosine = (seen.normal * torch.nn.functional.normalize(surface, dim=-1)).sum(-1)
    assert cosine.min() > 0.99
    assert seen.mean_orientation_loss < 0.05


def test_looking_at_surfaces_from_behind_costs_orientation_loss():
    origins, directions = rays_from([3.0, 0.0, 0.0], spread=0.1)
    hollow = SoftBall(-100.0, radius=1.0)
    hollow.density = lambda points: 5.0 * torch.sigmoid((points.norm(dim=-1) - 1.0) * 20.0)
    config = RenderConfig(near=2.0, far=3.5, proposal_samples=0, final_samples=64)
    seen = march_rays(hollow, None, origins, directions, config, with_normals=True)
    assert seen.mean_orientation_loss > 0.1


def test_a_ray_does_not_depend_on_the_other_rays():
    origins, directions = rays_from([3.0, 0.0, 0.0])
    ball = SoftBall(10.0, radius=1.0)
    jitter = torch.rand(16, 2) - 0.5
    whole = march_rays(ball, ball.density, origins, directions, EVEN, jitter=jitter)
    parts = [
        march_rays(ball, ball.density, origins[k], directions[k], EVEN, jitter=jitter[k])
        for k in (slice(0, 5), slice(5, 16))
    ]
    joined = join_rays(parts)
    torch.testing.assert_close(joined.rgb, whole.rgb)
    torch.testing.assert_close(joined.distance, whole.distance)


def test_moving_the_world_moves_nothing_in_the_image():
    """Equivariance: a shifted ball seen by a shifted camera looks the same."""
    origins, directions = rays_from([3.0, 0.0, 0.0])
    shift = torch.tensor([5.0, -2.0, 1.0])
    ball = SoftBall(10.0, radius=1.0)
    moved = SoftBall(10.0, radius=1.0)
    moved.density = lambda points: ball.density(points - shift)
    config = RenderConfig(near=0.5, far=8.0, proposal_samples=64, final_samples=64)
    seen = march_rays(ball, ball.density, origins, directions, config)
    again = march_rays(moved, moved.density, origins + shift, directions, config)
    torch.testing.assert_close(seen.rgb, again.rgb, atol=1e-3, rtol=1e-3)


def test_proposal_sampling_beats_even_sampling_on_a_thin_shell():
    origins, directions = rays_from([3.0, 0.0, 0.0], count=64)
    shell = SoftBall(0.0, radius=1.0)
    shell.density = lambda p: 12.0 * torch.exp(-(((p.norm(dim=-1) - 1.0) / 0.05) ** 2))
    exact = RenderConfig(near=0.5, far=8.0, proposal_samples=0, final_samples=4096)
    few = {"near": 0.5, "far": 8.0, "final_samples": 48}
    truth = march_rays(shell, None, origins, directions, exact).opacity
    even = march_rays(shell, None, origins, directions, RenderConfig(proposal_samples=0, **few))

    def broad(points):
        return 6.0 * torch.exp(-(((points.norm(dim=-1) - 1.0) / 0.1) ** 2))

    config = RenderConfig(proposal_samples=48, **few)
    guided = march_rays(shell, broad, origins, directions, config)
    even_error = (even.opacity - truth).abs().mean()
    assert (guided.opacity - truth).abs().mean() < 0.5 * even_error


def test_in_even_fog_shares_of_the_light_are_absorbed_at_known_distances():
    origins, directions = rays_from([3.0, 0.0, 0.0])
    share = torch.linspace(0.05, 0.95, 16)[:, None]
    config = RenderConfig(near=0.5, far=8.0, proposal_samples=0, final_samples=2000)
    seen = march_rays(Fog(1.0), None, origins, directions, config, quantile=share)
    expected = 0.5 - torch.log(1.0 - share[:, 0] * (1.0 - math.exp(-7.5)))
    torch.testing.assert_close(seen.quantile_distance, expected, atol=5e-3, rtol=0)


def test_what_is_not_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    origins, directions = rays_from([3.0, 0.0, 0.0])
    ball = Fog(5.0, radius=1.0)
    with_all = march_rays(ball, ball.density, origins, directions, RenderConfig())
    assert float(with_all.distortion_loss.abs().max()) > 0
    for name in ("interlevel_loss", "distortion_loss", "_quantile_distance"):
        monkeypatch.setattr(renderer, name, None)  # calling it would fail
    none = RayLosses(interlevel=False, distortion=False)
    seen = march_rays(ball, ball.density, origins, directions, RenderConfig(), with_losses=none)
    assert seen.quantile_distance is None
    assert not seen.distortion_loss.any()
    torch.testing.assert_close(seen.rgb, with_all.rgb)


def test_empty_space_is_seen_at_the_far_plane():
    origins, directions = rays_from([3.0, 0.0, 0.0])
    half = torch.full((16, 1), 0.5)
    seen = march_rays(Fog(0.0), None, origins, directions, EVEN, quantile=half)
    torch.testing.assert_close(seen.distance, torch.full((16,), EVEN.far))
    assert torch.isfinite(seen.quantile_distance).all()


def test_the_orientation_loss_turns_normals_and_leaves_the_weights_alone():
    """A factor on the density changes every weight and no normal: its gradient must be zero."""
    origins, directions = rays_from([3.0, 0.0, 0.0], spread=0.1)
    factor = torch.ones((), requires_grad=True)
    hollow = SoftBall(1.0, radius=1.0)
    hollow.density = lambda p: factor * torch.sigmoid((p.norm(dim=-1) - 1.0) * 20.0)
    config = RenderConfig(near=2.0, far=3.5, proposal_samples=0, final_samples=64)
    seen = march_rays(hollow, None, origins, directions, config, with_normals=True)
    by_loss, by_opacity = (
        torch.autograd.grad(value, factor, retain_graph=True)[0].abs()
        for value in (seen.orientation_loss.sum(), seen.opacity.sum())
    )
    assert seen.orientation_loss.sum() > 0.1
    assert by_opacity > 0.1
    assert by_loss < 1e-4


def test_the_orientation_loss_is_a_mean_over_the_rays_that_meet_something():
    origins = torch.tensor([[0.0, 0.0, 0.0]] * 4)
    directions = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    shell = SoftBall(5.0, radius=1.0)
    shell.density = lambda p: 5.0 * torch.relu(p[..., 0] - 1.0)
    config = RenderConfig(near=0.5, far=3.0, proposal_samples=0, final_samples=64)
    seen = march_rays(shell, None, origins, directions, config, with_normals=True)
    assert (seen.opacity > 0).tolist() == [True, True, False, False]
    # Density rises along the ray: normals face the camera, and nothing is lost.
    torch.testing.assert_close(seen.mean_orientation_loss, torch.tensor(0.0))
    shell.density = lambda p: 5.0 * torch.relu(2.0 - p[..., 0]) * (p[..., 0] > 0).float()
    seen = march_rays(shell, None, origins, directions, config, with_normals=True)
    expected = seen.orientation_loss[:2].mean()
    torch.testing.assert_close(seen.mean_orientation_loss, expected)
    torch.testing.assert_close(expected, seen.opacity[0], atol=0.05, rtol=0)
