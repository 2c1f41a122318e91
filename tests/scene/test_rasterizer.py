"""The tile rasteriser against brute force, and laws of splatting."""

from dataclasses import replace

import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.warp import project
from zeronvs.scene.rasterizer import LOW_PASS_PX2, RasterConfig, project_splats, rasterize
from zeronvs.splats import GaussianSplats


def random_splats(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return GaussianSplats(
        means=torch.randn(count, 3, generator=generator) * 0.4,
        scales=torch.rand(count, 3, generator=generator) * 0.15 + 0.01,
        rotations=torch.randn(count, 4, generator=generator),
        opacities=torch.rand(count, generator=generator) * 0.9 + 0.05,
        colors=torch.rand(count, 3, generator=generator),
    )


def orbit_camera(azimuth=0.4, size=(21, 30)):
    angles = torch.tensor([azimuth]), torch.tensor([0.3])
    return Camera.from_fov(orbit_pose(*angles, torch.tensor([2.5])), 0.9, size)


def brute_force(splats, camera):
    """Composite every splat at every pixel; the Jacobian comes from automatic differentiation."""
    single = camera[0]
    uv, depth = project(splats.means, single)

    def centre(point):
        return project(point[None], single)[0][0]

    jacobian = torch.stack([torch.func.jacrev(centre)(mean) for mean in splats.means])
    covariance = jacobian @ splats.covariances @ jacobian.mT + LOW_PASS_PX2 * torch.eye(2)
    height, width = camera.image_size_px
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    offset = torch.stack([u, v], -1)[None] - uv[:, None, None]
    form = torch.einsum("nhwi,nij,nhwj->nhw", offset, covariance.inverse(), offset)
    alpha = (splats.opacities[:, None, None] * torch.exp(-0.5 * form)).clamp(max=0.99)
    alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
    alpha = alpha[depth.argsort()]
    clear = torch.cat([torch.ones_like(alpha[:1]), (1 - alpha).cumprod(0)[:-1]])
    weights = alpha * clear
    rgb = torch.einsum("nhw,nc->chw", weights, splats.colors[depth.argsort()])
    mean_depth = torch.einsum("nhw,n->hw", weights, depth.sort().values)
    return rgb, weights.sum(0), mean_depth / weights.sum(0).clamp(min=1e-6)


@pytest.mark.parametrize("tile_px", [4, 8, 16])
@pytest.mark.parametrize("splats_per_round", [5, 32])
def test_the_image_equals_brute_force_whatever_the_tiles(tile_px, splats_per_round):
    splats, camera = random_splats(), orbit_camera()
    config = RasterConfig(tile_px=tile_px, splats_per_round=splats_per_round)
    rgb, opacity, depth = rasterize(splats, camera, None, config)
    expected = brute_force(splats, camera)
    # Tiles count as finished at 1e-4 of clear; nothing else may differ.
    torch.testing.assert_close(rgb[0], expected[0], atol=3e-4, rtol=0)
    torch.testing.assert_close(opacity[0], expected[1], atol=3e-4, rtol=0)
    torch.testing.assert_close(depth[0], expected[2], atol=2e-3, rtol=0)


def test_gradients_equal_those_of_brute_force():
    camera = orbit_camera(size=(12, 16))
    names = ("means", "scales", "rotations", "opacities", "colors")
    target = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(9))
    gradients = []
    for draw in (lambda s: rasterize(s, camera)[0][0], lambda s: brute_force(s, camera)[0]):
        splats = random_splats(20)
        leaves = {name: getattr(splats, name).requires_grad_(True) for name in names}
        loss = (draw(splats) * target).sum()
        gradients.append(torch.autograd.grad(loss, list(leaves.values())))
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-2, rtol=1e-3)


def test_opacity_lies_in_the_unit_range_and_background_fills_the_rest():
    splats, camera = random_splats(), orbit_camera()
    background = torch.tensor([0.1, 0.9, 0.4])
    bare, opacity, _ = rasterize(splats, camera)
    filled, again, _ = rasterize(splats, camera, background)
    assert opacity.min() >= 0
    assert opacity.max() <= 1
    torch.testing.assert_close(opacity, again)
    torch.testing.assert_close(filled, bare + (1 - opacity)[:, None] * background[:, None, None])


def test_the_order_in_which_splats_are_stored_does_not_matter():
    splats, camera = random_splats(), orbit_camera()
    shuffled = splats[torch.randperm(len(splats))]
    torch.testing.assert_close(rasterize(splats, camera)[0], rasterize(shuffled, camera)[0])


def test_a_batch_of_cameras_gives_each_camera_its_own_image():
    splats = random_splats()
    one, other = orbit_camera(0.4), orbit_camera(2.0)
    both = Camera(
        torch.cat([one.camera_to_world, other.camera_to_world]),
        torch.cat([one.intrinsics_px, other.intrinsics_px]),
        one.image_size_px,
    )
    together = rasterize(splats, both)[0]
    alone = torch.cat([rasterize(splats, one)[0], rasterize(splats, other)[0]])
    torch.testing.assert_close(together, alone)


def test_a_splat_is_drawn_where_its_centre_projects():
    splats = replace(random_splats(1), means=torch.tensor([[0.2, -0.3, 0.1]]))
    camera = orbit_camera()
    projected = project_splats(splats, camera[0], near=0.01)
    uv_px, depth_z = project(splats.means, camera[0])
    torch.testing.assert_close(projected.uv_px, uv_px)
    torch.testing.assert_close(projected.depth_z, depth_z)


def test_splats_behind_the_camera_and_no_splats_at_all_draw_nothing():
    camera = orbit_camera()
    behind = replace(random_splats(1), means=camera.position * 2.0)
    for splats in (behind, random_splats()[:0]):
        rgb, opacity, depth = rasterize(splats, camera)
        assert rgb.abs().max() == opacity.max() == depth.max() == 0


def test_an_almost_opaque_near_splat_hides_the_far_one():
    camera = orbit_camera()
    towards = torch.nn.functional.normalize(camera.position, dim=-1)
    splats = GaussianSplats(
        means=torch.cat([-0.5 * towards, 0.5 * towards]),
        scales=torch.full((2, 3), 0.2),
        rotations=torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4),
        opacities=torch.ones(2),
        colors=torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]),
    )
    rgb, _, depth = rasterize(splats, camera)
    centre = rgb[0, :, 10, 15]
    assert centre[1] > 0.95
    assert centre[0] < 0.05
    torch.testing.assert_close(depth[0, 10, 15], torch.tensor(2.0), atol=0.05, rtol=0)


def test_a_point_is_drawn_as_a_gaussian_of_variance_0_3_square_pixels():
    """The published low-pass, against its closed form: exp(-r^2 / (2 * 0.3)) around the centre."""
    camera = orbit_camera(size=(9, 9))
    splats = GaussianSplats(
        means=torch.zeros(1, 3),
        scales=torch.full((1, 3), 1e-5),
        rotations=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        opacities=torch.tensor([0.9]),
        colors=torch.ones(1, 3),
    )
    _, opacity, _ = rasterize(splats, camera)
    offset = torch.arange(9) - 4.0
    radius_squared = offset[:, None].square() + offset.square()
    expected = 0.9 * torch.exp(-radius_squared / (2 * 0.3))
    expected = torch.where(expected < 1 / 255, 0.0, expected)
    assert (expected > 0).sum() == 9
    torch.testing.assert_close(opacity[0], expected, atol=1e-4, rtol=0)


def test_the_compiled_twin_draws_the_same_image():
    generator = torch.Generator().manual_seed(0)
    count = 400
    splats = GaussianSplats(
        torch.randn(count, 3, generator=generator) * torch.tensor([0.8, 0.8, 0.5]),
        torch.rand(count, 3, generator=generator) * 0.15 + 0.005,
        torch.randn(count, 4, generator=generator),
        torch.rand(count, generator=generator),
        torch.rand(count, 3, generator=generator),
    )
    camera = Camera.from_fov(
        torch.tensor([[1.0, 0, 0, 0.2], [0, 1, 0, -0.1], [0, 0, 1, 2.0], [0, 0, 0, 1]]),
        0.9,
        (37, 50),
    )
    with torch.no_grad():
        compiled = rasterize(splats, camera)
    splats.colors.requires_grad_(True)
    plain = rasterize(splats, camera)
    assert plain[0].requires_grad
    for ours, twin in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours, twin.detach(), atol=5e-3, rtol=1e-2)
