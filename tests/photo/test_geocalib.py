"""GeoCalib's calibration in our axes: down is positive, and a leaning camera is noticed."""

import math
from pathlib import Path

import pytest
import torch
from tiny_estimators import install_geocalib

from zeronvs._core.errors import InputError
from zeronvs.photo.camera_estimate import estimate_camera
from zeronvs.photo.geocalib import load_geocalib
from zeronvs.protocols import CameraCalibrator


def up_in_opencv(down_rad: float, roll_rad: float) -> tuple[float, float, float]:
    """Return up in the axes of a camera (x right, y down) that looks down and leans."""
    upright = math.cos(down_rad)
    # A camera that looks down sees up behind it.
    return upright * math.sin(roll_rad), -upright * math.cos(roll_rad), -math.sin(down_rad)


@pytest.mark.parametrize(("down", "roll"), [(20.0, 0.0), (-10.0, 5.0), (60.0, -15.0)])
def test_gravity_becomes_elevation_and_roll(down: float, roll: float, monkeypatch, tmp_path: Path):
    up = up_in_opencv(math.radians(down), math.radians(roll))
    weights = install_geocalib(monkeypatch, tmp_path, up, vfov=0.8)
    calibrator = load_geocalib(weights)
    assert isinstance(calibrator, CameraCalibrator)
    found = calibrator.calibrate(torch.rand(3, 64, 96))
    assert math.degrees(found.elevation_rad) == pytest.approx(down, abs=1e-3)
    assert math.degrees(found.roll_rad) == pytest.approx(roll, abs=1e-3)
    assert found.fov_y_rad == pytest.approx(0.8)
    assert found.fov_spread_rad == pytest.approx(0.2)
    assert found.elevation_spread_rad == pytest.approx(0.1)


def test_a_calibration_precedes_lines_and_depth_and_the_lens_precedes_it(monkeypatch, tmp_path):
    up = up_in_opencv(math.radians(20), 0.0)
    weights = install_geocalib(monkeypatch, tmp_path, up, vfov=0.8)
    found = load_geocalib(weights).calibrate(torch.rand(3, 128, 64))
    estimate = estimate_camera((128, 64), calibration=found)
    assert estimate.elevation_rad.source == "GeoCalib"
    assert math.degrees(estimate.elevation_rad.value) == pytest.approx(20)
    # The shorter side of an upright photograph has half the tangent; the mean with the default.
    square = 2 * math.atan(0.5 * math.tan(0.4))
    assert "GeoCalib" in estimate.fov_y_rad.source
    assert square < estimate.fov_y_rad.value < math.radians(50)
    lens = estimate_camera((128, 64), calibration=found, focal_px=64.0, focal_source="EXIF")
    assert lens.fov_y_rad.source == "EXIF"
    assert (
        estimate_camera((128, 64), calibration=found, elevation_rad=0.3).elevation_rad.value == 0.3
    )


def test_numbers_that_are_not_finite_are_refused(monkeypatch, tmp_path: Path):
    weights = install_geocalib(monkeypatch, tmp_path, (0.0, math.nan, 0.0), vfov=0.8)
    with pytest.raises(InputError, match="cannot calibrate"):
        load_geocalib(weights).calibrate(torch.rand(3, 64, 64))


def test_what_cannot_be_loaded_is_named_with_its_remedy(monkeypatch, tmp_path: Path):
    with pytest.raises(InputError, match="there is no such file"):
        load_geocalib(tmp_path / "pinhole.tar")
    (tmp_path / "some.tar").write_bytes(b"x")
    with pytest.raises(InputError, match=r"pip install git\+https://github.com/cvg/GeoCalib"):
        load_geocalib(tmp_path / "some.tar")
    install_geocalib(monkeypatch, tmp_path, (0.0, -1.0, 0.0), vfov=0.8)
    with pytest.raises(InputError, match="cannot be loaded by GeoCalib"):
        load_geocalib(tmp_path / "some.tar")
