"""Both hash grids, plain and fused, against one that follows the paper line by line."""

import itertools
import os
import subprocess
import sys

import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.scene import grid_kernels
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.grid_kernels import PlainKernels
from zeronvs.scene.hash_grid import HashGrid, HashGridConfig, kernels_for

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


def fused():
    """Return the kernels of Warp, which a development environment has."""
    pytest.importorskip("warp")
    from zeronvs.scene.grid_kernels_warp import warp_kernels

    return warp_kernels(torch.device("cpu"))


KERNELS = {"plain": PlainKernels, "fused": fused}


def random_grid(config, seed=0, kernels="plain"):
    grid = HashGrid(config)
    grid.kernels = KERNELS[kernels]()
    torch.nn.init.normal_(grid.table, generator=torch.Generator().manual_seed(seed))
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(seed + 1)) * 0.99
    return grid, points


@pytest.fixture(params=[MIXED, DENSE, HASHED], ids=["mixed", "dense", "hashed"])
def config(request):
    return request.param


@pytest.fixture(params=KERNELS)
def grid_and_points(config, request):
    return random_grid(config, kernels=request.param)


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
    monkeypatch.setattr(grid_kernels, "_BLOCK_POINTS_CPU", 7)
    torch.testing.assert_close(grid(points), whole)


@pytest.mark.parametrize("kernels", KERNELS)
def test_points_outside_the_cube_are_clamped_to_its_faces(kernels):
    grid, _ = random_grid(MIXED, kernels=kernels)
    outside = torch.tensor([[-3.0, 0.5, 0.5], [0.5, 1.0, 7.0]])
    torch.testing.assert_close(grid(outside), grid(outside.clamp(0, 1)))


def test_the_published_grid_has_16_levels_up_to_4096():
    resolutions = HashGridConfig().resolutions
    assert (len(resolutions), resolutions[0]) == (16, 16)
    assert abs(resolutions[-1] - 4096) <= 1
    proposal = HashGridConfig(levels=5, growth=1.68).resolutions
    assert abs(proposal[-1] - 128) <= 1


@pytest.mark.parametrize("kernels", KERNELS)
def test_no_points_give_no_features(kernels):
    grid, _ = random_grid(MIXED, kernels=kernels)
    assert grid(torch.zeros(0, 3)).shape == (grid.feature_count, 0)


def everything(grid, points, mix, target):
    """Return the values of the four functions at some points."""
    features = grid(points)
    (table_gradient,) = torch.autograd.grad((features * mix).sum(), grid.table)
    mix = mix.clone().requires_grad_(True)
    spatial = grid.spatial_gradient(points, mix)
    second = torch.autograd.grad((spatial * target).sum(), [grid.table, mix])
    return [features, table_gradient, spatial, *second]


@pytest.fixture
def many_points():
    """Return so many points that the threads of a CPU share the work, and gradients for them."""
    generator = torch.Generator().manual_seed(3)
    count, features = 5000, MIXED.levels * MIXED.features_per_level
    return (
        torch.rand(count, 3, generator=generator) * 1.2 - 0.1,
        torch.randn(features, count, generator=generator),
        torch.randn(count, 3, generator=generator),
    )


def test_the_fused_kernels_equal_the_plain_ones(many_points):
    plain = everything(random_grid(MIXED)[0], *many_points)
    fast = everything(random_grid(MIXED, kernels="fused")[0], *many_points)
    for ours, twin in zip(fast, plain, strict=True):
        assert float((ours - twin).detach().norm() / twin.detach().norm()) < 1e-6
        assert ours.stride() == twin.stride() or ours.is_contiguous()


def test_the_fused_kernels_give_the_same_bits_each_time_on_a_cpu(many_points):
    first, second = (
        everything(random_grid(MIXED, kernels="fused")[0], *many_points) for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_points_that_are_not_finite_read_nothing_outside_of_the_table():
    grid, _ = random_grid(MIXED, kernels="fused")
    points = torch.tensor([[float("nan"), 0.5, 0.5], [float("inf"), 0.5, -float("inf")]])
    features = grid(points)
    assert features.isfinite().all()
    (gradient,) = torch.autograd.grad(features.sum(), grid.table)
    assert gradient.isfinite().all()


def test_a_rendered_image_and_the_gradient_of_every_weight_equal_the_plain_ones():
    def rendered(kernels):
        scene = FieldScene.small(generator=torch.Generator().manual_seed(0))
        for seed, grid in enumerate((scene.field.grid, scene.proposal.grid)):
            torch.nn.init.normal_(grid.table, generator=torch.Generator().manual_seed(seed))
            grid.kernels = KERNELS[kernels]()
        image = scene.render(Camera.from_fov(torch.eye(4), 0.9, (6, 5)), with_normals=True)
        loss = image.rgb.square().sum() + image.normal[:, 0].sum() + image.orientation_loss
        loss = loss + scene.proposal(torch.linspace(-1, 1, 60).view(-1, 3)).square().sum()
        return [image.rgb, image.normal, *torch.autograd.grad(loss, list(scene.parameters()))]

    for ours, twin in zip(rendered("fused"), rendered("plain"), strict=True):
        assert float(twin.detach().norm()) > 0
        assert float((ours - twin).detach().norm() / twin.detach().norm()) < 1e-4


def test_the_kernels_follow_from_the_device_and_from_what_is_installed(monkeypatch):
    fused_type = type(fused())
    assert type(kernels_for(torch.device("cpu"))) is fused_type
    assert type(HashGrid(MIXED).kernels or kernels_for(torch.device("cpu"))) is fused_type
    assert type(kernels_for(torch.device("mps"))) is PlainKernels
    if not torch.cuda.is_available():  # a device that Warp does not find
        assert type(kernels_for(torch.device("cuda"))) is PlainKernels
    monkeypatch.setitem(sys.modules, "warp", None)
    assert type(kernels_for.__wrapped__(torch.device("cpu"))) is PlainKernels


def test_warp_prints_nothing_and_keeps_its_kernels_in_the_cache_of_the_user(tmp_path):
    pytest.importorskip("warp")
    program = (
        "import torch; from zeronvs.scene.hash_grid import HashGrid, HashGridConfig;"
        "HashGrid(HashGridConfig(levels=2, log2_table_size=5))(torch.rand(3, 3))"
    )
    inherited = {name: value for name, value in os.environ.items() if name != "WARP_CACHE_PATH"}
    cache = {"XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **cache, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*grid_kernels_warp*"))


def test_the_table_starts_uniform_within_a_ten_thousandth():
    table = HashGrid(MIXED, torch.Generator().manual_seed(0)).table.detach()
    assert float(table.abs().max()) <= 1e-4
    assert float(table.std()) == pytest.approx(1e-4 / 3**0.5, rel=0.05)
    assert float(table.mean().abs()) < 5e-6
