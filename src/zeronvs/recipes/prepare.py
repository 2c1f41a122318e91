"""From a photograph to a view: every estimate with its source, at the canonical camera."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View, resize_image
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.photo.camera_estimate import CameraEstimate, estimate_camera
from zeronvs.photo.photo import Photo, load_photo, photo_from_image
from zeronvs.protocols import Calibration, CameraCalibrator, Geometry, GeometryEstimator

RESOLUTION_PX = 1024
"""Longer side at which a scene uses its photograph, where nothing else is asked for."""
LEVEL_RAD = math.radians(3.0)
"""Photographs that lean more are named: every camera here is level."""


class PreparedPhoto(NamedTuple):
    """A photograph, ready to be reconstructed."""

    view: View
    """The whole photograph with depth, at the canonical camera: azimuth 0, distance 1, looking at
    the world's origin."""
    estimates: CameraEstimate
    """Field of view, elevation and scene scale, each with its source and spread."""
    notes: tuple[str, ...]
    """Conversions and assumptions to show to the user, one sentence each."""


def prepare_photo(
    photo: Path | str | Image.Image | Photo,
    *,
    geometry_estimator: GeometryEstimator | None = None,
    calibrator: CameraCalibrator | None = None,
    max_side_px: int | None = None,
    fov_y_rad: float | None = None,
    elevation_rad: float | None = None,
    scene_scale: float | None = None,
) -> PreparedPhoto:
    """Load a photograph and estimate its camera and depth; a given number replaces its estimate.

    Args:
        photo: A file, a PIL image, or a photograph that was loaded before.
        geometry_estimator: Predicts depth and field of view, once; None: the built-in network.
        calibrator: Predicts field of view and elevation; None: they are estimated from the lens
            data, the depth network, vertical lines and the ground.
        max_side_px: Larger photographs are reduced to this longer side; None: as they are.
        fov_y_rad: Vertical field of view of the central square, in radians.
        elevation_rad: Elevation of the camera above the subject, in radians.
        scene_scale: Scene units per model unit (the paper's q), > 0.

    Raises:
        InputError: The photograph cannot be used, or a given number is out of its range.
    """
    if isinstance(photo, Image.Image):
        photo = photo_from_image(photo)
    elif not isinstance(photo, Photo):
        photo = load_photo(photo)
    if max_side_px is not None:
        photo = _reduced(photo, max_side_px)
    estimator = geometry_estimator or load_builtin_depth()
    geometry = estimator.estimate(photo.image[None])
    calibration = None if calibrator is None else calibrator.calibrate(photo.image)
    estimates = estimate_camera(
        photo.image.shape[-2:],
        image=photo.image,
        focal_px=photo.focal_px,
        focal_source=photo.focal_source,
        geometry=geometry,
        calibration=calibration,
        fov_y_rad=fov_y_rad,
        elevation_rad=elevation_rad,
        scene_scale=scene_scale,
    )
    depth_z = geometry.scaled_depth(estimates.scene_scale.value)[0].float().cpu()
    camera = canonical_camera(
        estimates.fov_y_rad.value, estimates.elevation_rad.value, photo.image.shape[-2:]
    )
    notes = (*photo.notes, *estimator_notes(geometry, calibration, estimates.scene_scale.value))
    return PreparedPhoto(View(photo.image, camera, depth_z), estimates, notes)


def estimator_notes(
    geometry: Geometry | None, calibration: Calibration | None, scene_scale: float
) -> Iterator[str]:
    """Yield what estimators know and a scene does not use: its size in metres, a leaning camera."""
    if geometry is not None and geometry.kind == "metric":
        metres = float((geometry.depth_z / geometry.scaled_depth(scene_scale)).median())
        yield f"One scene unit is {metres:.3g} m, by {geometry.source}."
    if calibration is not None and abs(calibration.roll_rad) > LEVEL_RAD:
        yield (
            f"It leans by {abs(math.degrees(calibration.roll_rad)):.0f} degrees, by "
            f"{calibration.source}; the scene leans with it. Straighten the photograph first."
        )


def _reduced(photo: Photo, max_side_px: int) -> Photo:
    """Return the photograph with its longer side at most this, its focal length with it."""
    height_px, width_px = photo.image.shape[-2:]
    factor = max_side_px / max(height_px, width_px)
    if factor >= 1:
        return photo
    size_px = (max(1, round(height_px * factor)), max(1, round(width_px * factor)))
    focal_px = None if photo.focal_px is None else photo.focal_px * factor
    return replace(photo, image=resize_image(photo.image, size_px, "bicubic"), focal_px=focal_px)


def canonical_camera(
    square_fov_rad: float, elevation_rad: float, image_size_px: tuple[int, ...]
) -> Camera:
    """Return the camera at azimuth 0 and distance 1 that looks at the origin.

    Args:
        square_fov_rad: Field of view along the shorter side of the image, in radians.
        elevation_rad: Above the horizontal plane, in radians.
        image_size_px: (height, width).
    """
    height_px, width_px = image_size_px
    half_slope = math.tan(0.5 * square_fov_rad) * height_px / min(height_px, width_px)
    pose = orbit_pose(torch.tensor(0.0), torch.tensor(elevation_rad), torch.tensor(1.0))
    return Camera.from_fov(pose, 2.0 * math.atan(half_slope), (height_px, width_px))
