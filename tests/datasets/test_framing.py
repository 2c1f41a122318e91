"""Frames of any camera become frames of the method's camera, exactly."""

import math

import numpy as np
import pytest
import torch
from foreign_files import fov_of_short_side, make_world

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.lens import Lens
from zeronvs.datasets.framing import Framing, frame_to, half_slopes
from zeronvs.datasets.procedural import drawn_texture, random_cameras, random_scene

LENSES = {
    "pinhole": Lens(),
    "radial": Lens(radial=(-0.12, 0.03)),
    "opencv": Lens(radial=(0.08, -0.02), tangential=(0.004, -0.003)),
    "rational": Lens(radial=(0.1, 0.02, 0.0), radial_divisor=(0.15, 0.0, 0.0)),
    "fisheye": Lens(radial=(0.01, -0.004, 0.0, 0.0), fisheye=True),
}


def framing_of(camera: Camera, lens: Lens, *, square: bool = False, short: int = 64) -> Framing:
    slope = min(half_slopes(camera, lens))
    return frame_to(camera, lens, half_slope=slope, short_side_px=short, square=square)


def off_centre_camera(size_px: tuple[int, int] = (120, 180)) -> Camera:
    camera = Camera.from_fov(torch.eye(4), 0.9, size_px)
    camera.intrinsics_px[0, 0] *= 1.05
    camera.intrinsics_px[0, 2] += 11.3
    camera.intrinsics_px[1, 2] -= 4.7
    return camera


@pytest.mark.parametrize("size_px", [(120, 180), (180, 120), (150, 150)])
def test_the_new_camera_is_centred_with_square_pixels(size_px: tuple[int, int]):
    camera = off_centre_camera(size_px)
    target = framing_of(camera, Lens()).target
    height, width = target.image_size_px
    assert min(height, width) == 64
    assert (max(height, width) - 64) % 2 == 0
    matrix = target.intrinsics_px
    assert float(matrix[0, 0]) == pytest.approx(float(matrix[1, 1]), rel=1e-6)
    assert float(matrix[0, 2]) == pytest.approx(width / 2)
    assert float(matrix[1, 2]) == pytest.approx(height / 2)
    square = framing_of(camera, Lens(), square=True).target
    assert square.image_size_px == (64, 64)
    assert float(square.fov_y_rad) == pytest.approx(fov_of_short_side(camera), rel=1e-5)


@pytest.mark.parametrize("name", LENSES)
def test_pixels_agree_with_the_new_camera(name: str):
    camera, lens = off_centre_camera(), LENSES[name]
    framing = framing_of(camera, lens)
    # Colours tell the slope of each pixel's ray, found by inverting the lens.
    height, width = camera.image_size_px
    uv = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    slopes = framing._undistorted(uv.reshape(-1, 2)).reshape(height, width, 2)
    colours = np.concatenate([128 + 100 * slopes, np.zeros((height, width, 1))], -1)
    image = framing.image(colours.clip(0, 255).round().astype(np.uint8)).astype(float)
    matrix = framing.target.intrinsics_px.numpy()
    rows, columns = image.shape[:2]
    target_uv = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), axis=-1)
    wanted = 128 + 100 * (target_uv - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(image[inner][..., :2] - wanted[inner]).max() < 1.6  # 1 is one grey level


@pytest.mark.parametrize("name", LENSES)
def test_the_window_stays_within_the_image(name: str):
    camera, lens = off_centre_camera(), LENSES[name]
    positions = framing_of(camera, lens).source_positions()
    height, width = camera.image_size_px
    assert positions.min() >= -1e-3
    assert (positions <= np.array([width, height]) + 1e-3).all()


def test_depth_is_that_of_a_rendering_by_the_new_camera():
    generator = torch.Generator().manual_seed(3)
    scene = random_scene(generator, drawn_texture(generator, 32)[None])
    camera = random_cameras(generator, 1, 0.9, (96, 128))[0]
    camera.intrinsics_px[0, 2] += 7
    view = scene.render(camera)
    assert view.depth_z is not None
    framing = framing_of(camera, Lens(), square=True)
    truth = scene.render(framing.target).depth_z
    assert truth is not None
    found = framing.depth(view.depth_z.numpy())
    assert np.median(np.abs(found / truth.numpy() - 1)) < 0.01


def test_sparse_depth_keeps_every_point_when_it_shrinks():
    camera = Camera.from_fov(torch.eye(4), 0.9, (256, 256))
    depth_z = np.zeros((256, 256), np.float32)
    depth_z[8::16, 8::16] = 2.0
    found = framing_of(camera, Lens(), short=32).depth(depth_z)
    assert (found > 0).sum() == 256
    assert found.max() == pytest.approx(2.0)


def test_points_outside_the_frustum_are_not_drawn():
    camera = Camera.from_fov(torch.eye(4), 0.9, (64, 64))
    points = np.array([[0, 0, -2.0], [0, 0, 2.0], [9, 0, -1.0], [0, 0, -3.0], [np.nan, 0, -1]])
    found = framing_of(camera, Lens()).points(points)
    assert sorted(found[found > 0]) == [2.0]  # the nearest of two on one pixel


def test_not_finite_and_negative_depth_is_unknown():
    camera = Camera.from_fov(torch.eye(4), 0.9, (64, 64))
    depth_z = np.full((64, 64), 1.5, np.float32)
    depth_z[:20] = [np.nan, np.inf, -1.0, 0.0] * 16
    found = framing_of(camera, Lens()).depth(depth_z)
    assert not found[:20].any()
    assert (found[20:] == 1.5).all()


def test_lenses_follow_opencvs_formulas():
    slope = np.array([[0.3, -0.2]])
    r2 = 0.13
    k1, k2, p1, p2 = 0.08, -0.02, 0.004, -0.003
    radial = 1 + k1 * r2 + k2 * r2**2
    x = 0.3 * radial + 2 * p1 * 0.3 * -0.2 + p2 * (r2 + 2 * 0.09)
    y = -0.2 * radial + p1 * (r2 + 2 * 0.04) + 2 * p2 * 0.3 * -0.2
    np.testing.assert_allclose(LENSES["opencv"].distorted(slope), [[x, y]])
    angle = math.atan(math.sqrt(r2))
    length = angle * (1 + 0.01 * angle**2 - 0.004 * angle**4)
    expected = slope * length / math.sqrt(r2)
    np.testing.assert_allclose(LENSES["fisheye"].distorted(slope), expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda k: k.fill_(torch.nan), "not finite"),
        (lambda k: k[0, 2].fill_(-5), "outside"),
        (lambda k: k[:2, :2].mul_(1e-3), "field of view"),
        (lambda k: k[:2, :2].mul_(1e3), "field of view"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(change, says: str):
    camera = off_centre_camera()
    change(camera.intrinsics_px)
    with pytest.raises(InputError, match=says):
        half_slopes(camera, Lens())


def test_a_lens_that_folds_is_refused_or_cut():
    camera = off_centre_camera()
    strong = Lens(radial=(-1.2,))
    reach = half_slopes(camera, strong)
    assert not strong.folds(max(reach))
    with pytest.raises(InputError, match="undistort"):
        half_slopes(camera, Lens(radial=(-60.0,)))


def test_frames_of_a_world_keep_the_smallest_field_of_view():
    from zeronvs.datasets.framing import choose_frames
    from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews

    world = make_world(4)
    cameras = world.cameras
    for index, factor in ((1, 1.1), (3, 3.0)):
        cameras[index].intrinsics_px[[0, 1], [0, 1]] *= factor
    frames = tuple(
        SceneFrame(str(k), camera, lambda: FramePixels(np.zeros((72, 96, 3), np.uint8)))
        for k, camera in enumerate(cameras)
    )
    notes: list[str] = []
    chosen, half_slope = choose_frames(SceneViews("a/b", frames), notes)
    assert [frame.name for frame in chosen] == ["0", "1", "2"]
    assert "field of view" in notes[0]
    expected = math.tan(fov_of_short_side(cameras[1]) / 2)
    assert half_slope == pytest.approx(expected, rel=1e-5)
