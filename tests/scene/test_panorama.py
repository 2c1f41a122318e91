"""The backdrop all round: where its rays point, and what is reflected on them."""

import math

import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.scene.surround import _reflected_columns, panorama_rays, sharpened, surround_splats
from zeronvs.splats import GaussianSplats

FOV_RAD = math.radians(60)


def camera_at(azimuth_rad: float, elevation_rad: float = 0.0, size_px: int = 64) -> Camera:
    pose = orbit_pose(*(torch.tensor(value) for value in (azimuth_rad, elevation_rad, 1.0)))
    return Camera.from_fov(pose, FOV_RAD, (size_px, size_px))


@pytest.mark.parametrize("azimuth_rad", [0.0, 0.7, -2.0])
def test_rays_run_to_the_right_of_the_heading_and_from_zenith_to_nadir(azimuth_rad: float):
    camera = camera_at(azimuth_rad, 0.3)
    columns = torch.tensor([0.0, 0.5 * math.pi, -0.5 * math.pi])
    rays, elevation_rad = panorama_rays(camera, columns, 9)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(9, 3))
    torch.testing.assert_close(rays[..., 2], elevation_rad.sin())
    assert elevation_rad[:, 0].tolist() == pytest.approx(
        [math.pi * (0.5 - (k + 0.5) / 9) for k in range(9)], abs=1e-6
    )
    forward, right = -camera.camera_to_world[:3, 2], camera.camera_to_world[:3, 0]
    level = torch.nn.functional.normalize(forward * torch.tensor([1.0, 1.0, 0.0]), dim=0)
    torch.testing.assert_close(rays[4], torch.stack([level, right, -right]), atol=1e-6, rtol=0)


def backdrop(camera: Camera) -> tuple[GaussianSplats, torch.Tensor]:
    """Return the backdrop of a wall that turns from red to blue, and the splats' azimuths."""
    size_px = camera.image_size_px[0]
    ramp = torch.linspace(0.1, 0.9, size_px).expand(size_px, -1)
    image = torch.stack([1 - ramp, torch.zeros_like(ramp), ramp])
    splats = surround_splats(
        View(image, camera, torch.full((size_px, size_px), 2.0)), 180, enclosed=True
    )
    local = (splats.means - camera.position) @ camera.camera_to_world[:3, :3]
    return splats, torch.atan2(local[:, 0], -local[:, 2])


def test_a_level_image_is_reflected_at_its_borders():
    camera = camera_at(0.4)
    splats, azimuth_rad = backdrop(camera)
    elevation = (splats.means - camera.position)[:, 2].abs()
    level = elevation < 0.3 * (splats.means - camera.position).norm(dim=-1)

    def blue(degrees: float) -> float:
        chosen = level & ((azimuth_rad - math.radians(degrees)).abs() < math.radians(4))
        assert chosen.any()
        return float(splats.colors[chosen, 2].mean())

    # Two reflections and a half on each side of a view of 60 degrees, 60 degrees each.
    assert blue(36) > 0.72
    assert blue(-36) < 0.28
    assert blue(84) < 0.28
    assert blue(-84) > 0.72
    assert 0.4 < blue(60) < 0.6
    # Behind the camera the last reflections meet in the middle of the image.
    assert blue(174) == pytest.approx(0.5, abs=0.12)
    assert blue(-174) == pytest.approx(0.5, abs=0.12)
    # Inside of the image there is nothing: other layers show it.
    assert not bool((level & (azimuth_rad.abs() < math.radians(24))).any())


def test_behind_cracks_inside_of_the_image_stands_a_backdrop():
    camera = camera_at(0.4)
    size_px = camera.image_size_px[0]
    cracks = torch.zeros(size_px, size_px, dtype=torch.bool)
    cracks[:, : size_px // 2] = True
    view = View(torch.full((3, size_px, size_px), 0.5), camera, torch.full((size_px,) * 2, 2.0))
    splats = surround_splats(view, 180, enclosed=True, cracks=cracks)
    local = (splats.means - camera.position) @ camera.camera_to_world[:3, :3]
    azimuth_rad = torch.atan2(local[:, 0], -local[:, 2])
    level = local[:, 1].abs() < 0.3 * local.norm(dim=-1)
    left = level & (azimuth_rad < -0.1) & (azimuth_rad > -0.4)
    right = level & (azimuth_rad > 0.1) & (azimuth_rad < 0.4)
    assert left.any()
    assert not right.any()
    assert float((-local[left, 2]).amin()) > 2.05  # behind the surface at depth 2


def test_the_backdrop_closes_the_circle_and_turns_with_the_camera():
    splats, azimuth_rad = backdrop(camera_at(0.0))
    count = torch.histc(azimuth_rad, 24, -math.pi, math.pi)
    assert int(count.amin()) > 0
    turned, other_rad = backdrop(camera_at(1.1))
    assert len(turned) == len(splats)
    torch.testing.assert_close(
        other_rad.sort().values, azimuth_rad.sort().values, atol=1e-3, rtol=0
    )
    torch.testing.assert_close(turned.colors, splats.colors, atol=0.02, rtol=0)


def test_a_level_ground_runs_on_below_the_image():
    camera = camera_at(0.0, math.radians(20))
    size_px = camera.image_size_px[0]
    focal_px = float(camera.intrinsics_px[1, 1])
    v = (torch.arange(size_px) + 0.5 - 0.5 * size_px) / focal_px
    # Height of the camera over the ground divided by the slope of each row's ray.
    height, tilt = 0.8, math.radians(20)
    slope = v * math.cos(tilt) + math.sin(tilt)
    depth_z = torch.where(slope > 0.05, height / slope.clamp_min(0.05), height / 0.05)
    view = View(torch.full((3, size_px, size_px), 0.5), camera, depth_z[:, None].repeat(1, size_px))
    splats = surround_splats(view, 180, enclosed=True)
    offset = splats.means - camera.position
    steep = offset[:, 2] < -offset.norm(dim=-1) * math.sin(math.radians(60))
    ahead = offset[:, 0] < -0.1 * offset.norm(dim=-1)
    below = offset[steep & ahead, 2]
    assert len(below) > 10
    torch.testing.assert_close(below.median(), torch.tensor(-height), rtol=0.1, atol=0)


def test_every_row_of_a_tilted_image_is_reflected_at_its_own_borders():
    """A trapezoid, as a camera that looks down sees it: wider below."""
    rows, columns = 60, 240
    half = torch.linspace(20, 40, 40).round().long()
    seen = torch.zeros(rows, columns, dtype=torch.bool)
    for row, reach in enumerate(half.tolist(), start=10):
        seen[row, columns // 2 - reach : columns // 2 + reach] = True
    column = _reflected_columns(seen, math.radians(45))
    inside = torch.arange(columns).float()
    assert float((column - inside)[seen].abs().amax()) < 2.0
    for row, reach in list(enumerate(half.tolist(), start=10))[3:-3]:
        left, right = columns // 2 - reach, columns // 2 + reach - 1
        for border, away in ((left, -1), (right, 1)):
            for step in (2, 5):  # as far inside as outside, but for the stretched period
                found = float(column[row, border + away * step])
                assert found == pytest.approx(border - away * step, abs=3.0)
        # Behind the camera both sides meet.
        assert float(column[row, 0]) == pytest.approx(float(column[row, -1]), abs=6)
    # Rows without the image follow the nearest that has it.
    torch.testing.assert_close(column[0], column[10], atol=3.0, rtol=0)


def test_inside_of_the_image_stands_what_is_behind_it_and_around_it_what_surrounds():
    camera = camera_at(0.0)
    size_px = camera.image_size_px[0]
    depth_z, everywhere = torch.full((size_px,) * 2, 2.0), torch.ones(size_px, size_px).bool()
    red, blue = (
        torch.tensor(color)[:, None, None].expand(3, size_px, size_px)
        for color in ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9])
    )
    splats = surround_splats(
        View(red, camera, depth_z),
        180,
        enclosed=True,
        behind=View(blue, camera, 2 * depth_z),
        cracks=everywhere,
    )
    local = (splats.means - camera.position) @ camera.camera_to_world[:3, :3]
    level = local[:, 1].abs() < 0.3 * local.norm(dim=-1)
    angle = torch.atan2(local[:, 0], -local[:, 2]).abs()
    inside, around = level & (angle < math.radians(20)), level & (angle > math.radians(40))
    assert float(splats.colors[inside, 2].amin()) > 0.8
    assert float(splats.colors[around, 0].amin()) > 0.8
    assert float(-local[inside, 2].amin()) > 3.9
    assert float(local[around].norm(dim=-1).amax()) < 2.9  # with what stands behind its steps


def test_the_rim_of_the_panorama_lies_behind_the_border_of_the_image():
    """Beyond the border of a wall its reflection comes nearer, and its splats are coarse."""
    splats, azimuth_rad = backdrop(camera_at(0.0))
    local = (splats.means - camera_at(0.0).position) @ camera_at(0.0).camera_to_world[:3, :3]
    rim = (azimuth_rad.abs() > math.radians(28)) & (azimuth_rad.abs() < math.radians(33))
    rim &= local[:, 1].abs() < 0.3
    assert rim.any()
    assert float((-local[rim, 2]).amin()) > 2.01


def test_a_reflected_depth_edge_is_no_gap():
    camera = camera_at(0.0)
    size_px = camera.image_size_px[0]
    depth_z = torch.full((size_px, size_px), 2.0)
    depth_z[:, : size_px // 2] = 6.0
    view = View(torch.rand(3, size_px, size_px), camera, depth_z)
    splats = surround_splats(view, 720, enclosed=True)
    local = (splats.means - camera.position) @ camera.camera_to_world[:3, :3]
    angle = torch.atan2(local[:, 0], -local[:, 2])
    row = (local[:, 1].abs() < 0.006 * local.norm(dim=-1)) & (angle > math.radians(40))
    order = angle[row].argsort()
    range_ = local[row].norm(dim=-1)[order].log()
    assert len(range_) > 200
    assert float(range_.amax() - range_.amin()) > 0.9  # both surfaces are there
    assert float(range_.diff().abs().amax()) < 0.3  # the step is log 3 = 1.1


def test_sharpening_undoes_the_blur_of_the_splats_around_the_circle():
    generator = torch.Generator().manual_seed(0)
    truth = 0.3 + 0.4 * torch.rand(3, 20, 40, generator=generator)
    truth = torch.nn.functional.avg_pool2d(truth, 3, 1, 1, count_include_pad=False)
    sharp = sharpened(truth, 0.75)
    # The circle has no border: turned, it is sharpened alike.
    torch.testing.assert_close(sharpened(truth.roll(7, 2), 0.75), sharp.roll(7, 2))
    offset = torch.arange(-3, 4).float()
    weights = torch.exp(-0.5 * (offset / 0.75) ** 2)
    weights = weights / weights.sum()

    def blurred(image: torch.Tensor) -> torch.Tensor:
        along = sum(w * image.roll(int(k), 2) for w, k in zip(weights, offset, strict=True))
        assert isinstance(along, torch.Tensor)
        down = sum(w * along.roll(int(k), 1) for w, k in zip(weights, offset, strict=True))
        assert isinstance(down, torch.Tensor)
        return down

    def error(image: torch.Tensor) -> float:
        return float((blurred(image) - truth)[:, 4:-4].abs().mean())

    assert error(sharp) < 0.55 * error(truth)


def test_splats_are_coarser_towards_the_poles():
    camera = camera_at(0.0)
    size_px = camera.image_size_px[0]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, size_px, size_px, generator=generator)
    splats = surround_splats(
        View(noise, camera, torch.full((size_px,) * 2, 2.0)), 720, enclosed=True
    )
    offset = splats.means - camera.position
    elevation = torch.asin(offset[:, 2] / offset.norm(dim=-1)).abs()
    size = splats.scales[:, 0] / offset.norm(dim=-1)
    level, high, pole = (
        size[(elevation > math.radians(low)) & (elevation < math.radians(top))].amin()
        for low, top in ((0, 20), (35, 55), (65, 85))
    )
    assert float(high / level) == pytest.approx(2, rel=0.05)
    assert float(pole / level) == pytest.approx(4, rel=0.05)


def test_splats_all_around_have_more_contrast_than_what_they_show():
    camera = camera_at(0.0)
    size_px = camera.image_size_px[0]
    generator = torch.Generator().manual_seed(0)
    image = 0.4 + 0.2 * (torch.rand(1, size_px, size_px, generator=generator) > 0.5).float()
    view = View(image.expand(3, -1, -1), camera, torch.full((size_px,) * 2, 2.0))
    splats = surround_splats(view, 360, enclosed=True)
    offset = splats.means - camera.position
    level = offset[:, 2].abs() < 0.2 * offset.norm(dim=-1)
    assert float(splats.colors[level].std()) > 1.2 * float(image.std())
    assert float(splats.colors[level].amax()) > 0.65
