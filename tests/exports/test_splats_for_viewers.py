"""Splats in files: closed in windows larger than the photograph, and as many as are wanted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from splat_ply_reader import read_splats

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.exports.export import export, write_splats
from zeronvs.exports.splat_files import FileConfig
from zeronvs.exports.splats_for_viewers import WIDENING_PX, merged, widened
from zeronvs.formats.splat import write_splat
from zeronvs.formats.viewer_splats import morton_order
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.splats import GaussianSplats

SIDE_PX = 24
CAMERA = Camera.from_fov(
    orbit_pose(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0)), 0.8, (SIDE_PX, SIDE_PX)
)


def photograph() -> View:
    """Return a wall with soft stripes, one unit away."""
    wave = 0.5 + 0.5 * (torch.arange(SIDE_PX) * (2 * torch.pi / 12)).sin()
    stripes = wave.expand(3, SIDE_PX, SIDE_PX).clone()
    stripes[2] = 0.5
    return View(stripes, CAMERA, torch.ones(SIDE_PX, SIDE_PX))


def lifted() -> SplatScene:
    """Return the wall's pixels as splats of a third of a pixel, without anything behind."""
    pixel = 1.0 / float(CAMERA.intrinsics_px[1, 1])
    rows, columns = torch.meshgrid(*2 * [torch.arange(SIDE_PX) + 0.5 - SIDE_PX / 2], indexing="ij")
    count = SIDE_PX * SIDE_PX
    means = torch.stack([0 * rows, columns * pixel, -rows * pixel], dim=-1).view(-1, 3)
    scales = torch.tensor([0.035, 0.35, 0.35]).repeat(count, 1) * pixel
    turns = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1)
    colors = photograph().image.view(3, -1).T.contiguous()
    return SplatScene(GaussianSplats(means, scales, turns, torch.full((count,), 0.99), colors))


def inside(image: torch.Tensor, factor: int) -> torch.Tensor:
    """Return an image without its border."""
    return image[..., 2 * factor : -2 * factor, 2 * factor : -2 * factor]


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * (image - truth).square().mean().log10())


@pytest.mark.parametrize("write", ["export", "run"])
def test_files_are_closed_in_a_window_larger_than_the_photograph(write: str, tmp_path: Path):
    scene, photo = lifted(), photograph()
    if write == "export":
        export(scene, CAMERA.batched(), ["ply"], tmp_path, photo=photo)
    else:
        write_splats(scene, CAMERA.batched(), tmp_path, steps=0, photo=photo)
    file = SplatScene(read_splats(tmp_path / "scene" / "scene.ply"))
    window = CAMERA.resized(3 * SIDE_PX, 3 * SIDE_PX)
    opacity = inside(file.render(window).opacity, 3)
    assert float(inside(scene.render(window).opacity, 3).min()) < 0.7
    assert float(opacity.min()) > 0.9
    truth = photo.image.repeat_interleave(3, -1).repeat_interleave(3, -2)
    before, after = (
        psnr(inside(one.render(window).rgb[0], 3), inside(truth, 3)) for one in (scene, file)
    )
    assert after > before + 2.5
    # At the size of the photograph, little is lost.
    assert psnr(inside(file.render(CAMERA).rgb[0], 1), inside(photo.image, 1)) > 20


def test_widening_keeps_surfaces_thin_and_opacities():
    splats = lifted().splats
    wide = widened(splats, CAMERA)
    pixel = (splats.means - CAMERA.position).norm(dim=-1) / CAMERA.intrinsics_px[1, 1]
    torch.testing.assert_close(wide.scales[:, 0], splats.scales[:, 0])
    expected = (splats.scales[:, 1].square() + (WIDENING_PX * pixel).square()).sqrt()
    torch.testing.assert_close(wide.scales[:, 1:], expected[:, None].expand(-1, 2))
    assert wide.opacities is splats.opacities


def test_without_a_photograph_splats_are_written_as_they_are(tmp_path: Path):
    export(lifted(), CAMERA.batched(), ["ply"], tmp_path)
    read = read_splats(tmp_path / "scene" / "scene.ply")
    torch.testing.assert_close(read.scales, lifted().splats.scales, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("count", [60, 200, 500])
def test_fewer_splats_look_alike_and_are_never_more_than_wanted(count: int):
    splats = widened(lifted().splats, CAMERA)
    few = merged(splats, count, CAMERA)
    assert count / 3 < len(few) <= count
    truth, drawn = (SplatScene(one).render(CAMERA) for one in (splats, few))
    assert float((drawn.opacity - truth.opacity).abs().mean()) < 0.12
    plain = replace(splats, colors=splats.colors.mean(0).expand_as(splats.colors).clone())
    flat = SplatScene(plain).render(CAMERA).rgb
    if count >= 200:  # with fewer, splats are wider than the stripes
        assert float((drawn.rgb - truth.rgb).abs().mean()) < 0.5 * float(
            (flat - truth.rgb).abs().mean()
        )


def test_splats_with_room_enough_stay_as_they_are():
    splats = lifted().splats
    assert merged(splats, len(splats), CAMERA) is splats


def test_merged_neighbours_have_their_mean_and_close_the_gap_between_them():
    pair = GaussianSplats(
        means=torch.tensor([[0.0, 0.01, 0.0], [0.0, 0.03, 0.0], [0.5, -0.4, 0.3]]),
        scales=torch.tensor([[0.004, 0.01, 0.01]]).repeat(3, 1),
        rotations=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(3, 1),
        opacities=torch.tensor([0.3, 0.9, 0.5]),
        colors=torch.eye(3),
    )
    few = merged(pair, 2, CAMERA)
    order = few.means[:, 0].argsort()
    few = few[order]
    torch.testing.assert_close(few.means, torch.tensor([[0.0, 0.025, 0.0], [0.5, -0.4, 0.3]]))
    torch.testing.assert_close(few.colors[0], torch.tensor([0.25, 0.75, 0.0]))
    # Weights 1/4 and 3/4: the variance between the two is 3/16 of 0.02 squared, taken three times.
    expected = torch.diag(torch.tensor([1.6e-5, 1e-4 + 3 * 0.1875 * 4e-4, 1e-4]))
    torch.testing.assert_close(few.covariances[0], expected, atol=1e-8, rtol=1e-4)
    assert float(few.opacities[0]) == pytest.approx(0.25 * 0.3 + 0.75 * 0.9)
    torch.testing.assert_close(few.covariances[1], pair.covariances[2])
    assert float(few.opacities[1]) == 0.5


def test_a_number_of_splats_below_one_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(InputError, match="at least 1") as caught:
        export(lifted(), CAMERA.batched(), ["ply"], tmp_path, config=FileConfig(max_splats=0))
    assert caught.value.argument == "max_splats"
    assert list(tmp_path.iterdir()) == []


def test_an_export_has_at_most_the_splats_that_are_wanted(tmp_path: Path):
    config = FileConfig(max_splats=100)
    export(lifted(), CAMERA.batched(), ["ply", "splat"], tmp_path, config=config)
    count = len(read_splats(tmp_path / "scene" / "scene.ply"))
    assert 30 < count <= 100
    assert (tmp_path / "scene" / "scene.splat").stat().st_size == 32 * count


def test_the_largest_splats_come_first_in_a_file_that_is_drawn_while_it_loads(tmp_path: Path):
    splats = lifted().splats[:3]
    splats.scales[1] *= 4
    write_splat(tmp_path / "s.splat", splats)
    first = torch.frombuffer(
        bytearray((tmp_path / "s.splat").read_bytes()[:12]), dtype=torch.float32
    )
    x, y, z = splats.means[1].tolist()
    assert first.tolist() == pytest.approx([x, -z, y])


def test_neighbours_in_space_are_neighbours_in_the_order():
    points = torch.rand(4096, 3, generator=torch.Generator().manual_seed(0))
    ordered = points[morton_order(points)]
    assert sorted(map(tuple, ordered.tolist())) == sorted(map(tuple, points.tolist()))
    extent = ordered.view(-1, 64, 3)
    boxes = (extent.amax(1) - extent.amin(1)).prod(-1)
    assert float(boxes.mean()) < 0.1  # the best is 64 in 4096; at random it is 0.9
