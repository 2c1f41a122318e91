"""From a photograph to a view: the whole image, the camera that fits it, depth in scene units."""

import math

import pytest
import torch
from PIL import ExifTags, Image
from pillars import FOCAL_PX, SIZE_PX, pillars

from zeronvs._core.errors import InputError
from zeronvs.protocols import Geometry
from zeronvs.recipes.prepare import canonical_camera, prepare_photo


class Slope:
    """A depth model for which everything lies deeper to the right."""

    def __init__(self, kind="relative"):
        self.images, self.kind = [], kind

    def estimate(self, image: torch.Tensor) -> Geometry:
        self.images.append(image)
        depth_z = torch.linspace(1, 4, image.shape[-1]).expand(len(image), *image.shape[-2:])
        return Geometry(depth_z=depth_z.contiguous(), kind=self.kind)


def photograph(width: int = 120, height: int = 80) -> Image.Image:
    ramp = torch.linspace(0, 255, width).expand(height, width).byte()
    return Image.fromarray(torch.stack([ramp, ramp.flip(1), ramp], -1).numpy())


def test_the_whole_photograph_becomes_the_view_and_its_depth_is_predicted_once():
    estimator = Slope()
    photo = prepare_photo(photograph(), geometry_estimator=estimator, scene_scale=0.5)
    assert [tuple(image.shape) for image in estimator.images] == [(1, 3, 80, 120)]
    assert photo.view.camera.image_size_px == (80, 120)
    assert photo.view.depth_z is not None
    torch.testing.assert_close(photo.view.depth_z[0], 0.5 * torch.linspace(1, 4, 120))


def test_vertical_lines_in_the_photograph_tilt_its_camera():
    pixels = (pillars(24) * 255).round().byte().permute(1, 2, 0).numpy()
    fov_y_rad = 2 * math.atan(0.5 * SIZE_PX[0] / FOCAL_PX)
    photo = prepare_photo(Image.fromarray(pixels), geometry_estimator=Slope(), fov_y_rad=fov_y_rad)
    assert photo.estimates.elevation_rad.source == "vertical lines"
    assert float(photo.view.camera.elevation_rad) == pytest.approx(math.radians(24), abs=0.03)


def test_metric_depth_is_brought_to_the_scene_scale():
    relative = prepare_photo(photograph(), geometry_estimator=Slope(), scene_scale=0.5)
    metric = prepare_photo(photograph(), geometry_estimator=Slope("metric"), scene_scale=0.5)
    assert metric.view.depth_z is not None
    assert metric.view.depth_z.flatten().quantile(0.2) == pytest.approx(0.5, abs=0.01)
    assert relative.view.depth_z is not None
    ratio = metric.view.depth_z / relative.view.depth_z
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))


@pytest.mark.parametrize("size", [(120, 80), (80, 120), (100, 100)])
def test_the_camera_fits_the_whole_image_and_its_central_square(size: tuple[int, int]):
    width, height = size
    photo = prepare_photo(
        photograph(width, height),
        geometry_estimator=Slope(),
        fov_y_rad=0.9,
        elevation_rad=0.3,
    )
    square = photo.view.center_square()
    assert float(square.camera.fov_y_rad) == pytest.approx(0.9, abs=1e-6)
    assert float(photo.view.camera.elevation_rad) == pytest.approx(0.3, abs=1e-6)
    assert float(photo.view.camera.position.norm()) == pytest.approx(1.0, abs=1e-6)
    assert float(photo.view.camera.position[1]) == pytest.approx(0.0, abs=1e-6)
    # The camera looks at the origin.
    axis = -photo.view.camera.camera_to_world[:3, 2]
    torch.testing.assert_close(axis, -photo.view.camera.position)
    assert photo.estimates.fov_y_rad.source == "given"


def test_the_field_of_view_is_that_of_the_shorter_side():
    tall = canonical_camera(0.9, 0.0, (160, 80))
    assert float(tall.intrinsics_px[0, 0]) == pytest.approx(40 / math.tan(0.45), rel=1e-6)


def test_a_number_out_of_range_is_refused_by_the_name_of_the_argument():
    with pytest.raises(InputError) as caught:
        prepare_photo(photograph(), geometry_estimator=Slope(), elevation_rad=3.0)
    assert caught.value.argument == "elevation_rad"


def test_the_lens_that_a_camera_recorded_gives_the_field_of_view(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 30
    photograph().save(tmp_path / "photo.jpg", exif=exif)
    photo = prepare_photo(tmp_path / "photo.jpg", geometry_estimator=Slope())
    # 30 mm of a diagonal of 43.3 mm, and 80 of a diagonal of 144 pixels.
    focal_px = 30 / math.hypot(36, 24) * math.hypot(120, 80)
    assert photo.estimates.fov_y_rad.value == pytest.approx(2 * math.atan(40 / focal_px), rel=1e-4)
    assert photo.estimates.fov_y_rad.source == "EXIF FocalLengthIn35mmFilm"
    assert float(photo.view.camera.intrinsics_px[0, 0]) == pytest.approx(focal_px, rel=1e-4)
