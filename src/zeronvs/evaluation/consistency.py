"""Consistency of images along a trajectory, without true images: TSED, and structure from motion.

TSED, the thresholded symmetric epipolar distance (Yu et al. 2023, "Long-Term Photometric Consistent
Novel View Synthesis with Diffusion Models", section 4): features of two neighbouring images are
matched; with the cameras that were asked for, a match should lie on each other's epipolar line. A
pair is consistent if it has enough matches and their median distance is small; the score is the
share of consistent pairs.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.optional import require
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import opengl_from_opencv
from zeronvs.cameras.poses import rotation_angle_rad
from zeronvs.formats.images import write_image

MIN_MATCHES = 10
"""Published T_matches: with fewer matches, a pair is not consistent."""
MAX_DISTANCE_PX = 2.0
"""Published T_error, at images of 256 pixels: the median distance must be below it."""
MAX_RATIO = 0.8
"""A match must be nearer than this share of the second nearest (COLMAP's default, which the
published evaluation matched with), and both features must choose each other."""


@dataclass(frozen=True, kw_only=True)
class PairConsistency:
    """One pair of neighbouring images."""

    matches: int
    median_distance_px: float
    """Median symmetric epipolar distance; infinite without matches."""

    def is_consistent(
        self, *, min_matches: int = MIN_MATCHES, max_distance_px: float = MAX_DISTANCE_PX
    ) -> bool:
        """Return whether the pair counts as consistent."""
        return self.matches >= min_matches and self.median_distance_px < max_distance_px


def tsed(images: Float[Tensor, "n 3 h w"], cameras: Camera) -> float:
    """Return the share of neighbouring pairs that are consistent, in [0, 1]; see the module.

    Raises:
        InputError: There are fewer than two images.
    """
    pairs = trajectory_pairs(images, cameras)
    return sum(pair.is_consistent() for pair in pairs) / len(pairs)


def trajectory_pairs(images: Float[Tensor, "n 3 h w"], cameras: Camera) -> list[PairConsistency]:
    """Match each image with the next one, and measure the matches by the cameras.

    Args:
        images: In [0, 1], in the order of the trajectory.
        cameras: The cameras that were asked for, one an image.

    Raises:
        InputError: There are fewer than two images, or not one camera each.
    """
    if len(images) < 2 or cameras.batch_shape != images.shape[:1]:
        raise InputError(
            f"{len(images)} images and cameras {tuple(cameras.batch_shape)}: a trajectory needs at "
            "least two images, and one camera each"
        )
    features = [_features(image) for image in images]
    return [
        _pair(features[index], features[index + 1], cameras[index], cameras[index + 1])
        for index in range(len(images) - 1)
    ]


def symmetric_epipolar_distance(
    uv_px: Float[Tensor, "n 2"], other_uv_px: Float[Tensor, "n 2"], camera: Camera, other: Camera
) -> Float[Tensor, " n"]:
    """Return the mean distance of matched points to each other's epipolar lines, in pixels.

    SED(p, p') = (d(p', F p) + d(p, F^T p')) / 2, where F is the fundamental matrix.

    Args:
        uv_px: Points in the image of one single camera.
        other_uv_px: Their matches in that of the other.
    """
    fundamental = fundamental_matrix(camera, other)
    ones = torch.ones(len(uv_px), 1, dtype=torch.float64)
    p, q = torch.cat([uv_px.double(), ones], 1), torch.cat([other_uv_px.double(), ones], 1)
    lines, other_lines = q @ fundamental, p @ fundamental.mT  # F^T p' and F p
    residual = (q * other_lines).sum(1).abs()  # |p'^T F p|, the numerator of both distances
    lengths = torch.stack([lines[:, :2].norm(dim=1), other_lines[:, :2].norm(dim=1)])
    return (residual / lengths.clamp_min(1e-12)).mean(0)


def fundamental_matrix(camera: Camera, other: Camera) -> Float[Tensor, "3 3"]:
    """Return F with p'^T F p = 0 for a point seen at p by a camera and at p' by the other.

    Cameras at one place have none: F is 0, and so are all distances.
    """
    # Axes of OpenCV (y down, z forward) make K a projection: p ~ K x.
    pose, other_pose = (opengl_from_opencv(c.camera_to_world.double()) for c in (camera, other))
    between = torch.linalg.inv(other_pose) @ pose  # x' = R x + t
    x, y, z = between[:3, 3].tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    inverse, other_inverse = (torch.linalg.inv(c.intrinsics_px.double()) for c in (camera, other))
    return other_inverse.mT @ cross @ between[:3, :3] @ inverse


Features = tuple[np.ndarray, np.ndarray]
"""Places (u, v; pixels) and descriptors."""


def _features(image: Float[Tensor, "3 h w"]) -> Features | None:
    from skimage.feature import SIFT

    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    grey = torch.einsum("c,chw->hw", weights, image.detach().cpu().double())
    detector = SIFT()
    try:
        detector.detect_and_extract(grey.numpy())
    except RuntimeError:  # a flat image has no feature
        return None
    places, descriptors = np.asarray(detector.positions), np.asarray(detector.descriptors)
    return places[:, ::-1] + 0.5, descriptors


def _pair(
    one: Features | None, two: Features | None, camera: Camera, other: Camera
) -> PairConsistency:
    from skimage.feature import match_descriptors

    none = PairConsistency(matches=0, median_distance_px=float("inf"))
    if one is None or two is None or min(len(one[0]), len(two[0])) < 2:
        return none
    matched = match_descriptors(one[1], two[1], max_ratio=MAX_RATIO, cross_check=True)
    if not len(matched):
        return none
    uv_px, other_uv_px = (
        torch.from_numpy(features[0][matched[:, k]]) for k, features in enumerate((one, two))
    )
    distance_px = symmetric_epipolar_distance(uv_px, other_uv_px, camera.to("cpu"), other.to("cpu"))
    median = float(np.median(distance_px.numpy()))
    return PairConsistency(matches=len(matched), median_distance_px=median)


@dataclass(frozen=True, kw_only=True)
class MotionScore:
    """What structure from motion makes of the images of a trajectory."""

    registered: float
    """Share of the images that were registered in the largest model: 0 where it failed."""
    points: int
    """Triangulated points of that model."""
    reprojection_px: float
    """Their mean reprojection error; infinite where it failed."""
    rotation_deg: float
    """Mean error of the relative rotations of neighbours, over the registered ones; 180 for each
    pair that was not registered, so that a failure does not help."""


def structure_from_motion(
    images: Float[Tensor, "n 3 h w"], cameras: Camera, *, seed: int = 0
) -> MotionScore:
    """Run COLMAP's incremental mapper on a trajectory, with its lens known; failures count.

    Args:
        images: In [0, 1], in the order of the trajectory.
        cameras: The cameras that were asked for, one an image; the first gives the lens of all.
        seed: Of the mapper.

    Raises:
        ImportError: pycolmap is not installed.
        InputError: There are fewer than two images.
    """
    if len(images) < 2:
        raise InputError(f"{len(images)} images: structure from motion needs at least two")
    pycolmap = require("pycolmap", "sfm")
    pycolmap.set_random_seed(seed)
    matrix = cameras.intrinsics_px[0].tolist()
    with tempfile.TemporaryDirectory(prefix="zeronvs-") as name:
        folder = Path(name)
        for index, image in enumerate(images):
            write_image(folder / "images" / f"{index:06d}.png", image)
        options = pycolmap.ImageReaderOptions()
        options.camera_model = "PINHOLE"
        numbers = (matrix[0][0], matrix[1][1], matrix[0][2], matrix[1][2])
        options.camera_params = ",".join(str(number) for number in numbers)
        database = folder / "database.db"
        pycolmap.extract_features(
            database,
            folder / "images",
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=options,
        )
        pycolmap.match_exhaustive(database)
        models = pycolmap.incremental_mapping(database, folder / "images", folder / "sparse")
        found = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
        if found is None:
            return MotionScore(
                registered=0.0, points=0, reprojection_px=float("inf"), rotation_deg=180.0
            )
        rotations = {
            int(Path(image.name).stem): torch.from_numpy(
                image.cam_from_world().rotation.matrix().T.copy()
            )
            for image in found.images.values()
            if image.has_pose
        }
        return MotionScore(
            registered=len(rotations) / len(images),
            points=found.num_points3D(),
            reprojection_px=found.compute_mean_reprojection_error(),
            rotation_deg=_rotation_error_deg(rotations, cameras),
        )


def _rotation_error_deg(rotations: dict[int, Float[Tensor, "3 3"]], cameras: Camera) -> float:
    """Return the mean error of relative rotations of neighbours, which no world frame changes."""
    asked = opengl_from_opencv(cameras.camera_to_world.double()).cpu()
    errors = []
    for index in range(len(cameras) - 1):
        if index not in rotations or index + 1 not in rotations:
            errors.append(180.0)
            continue
        found, wanted = torch.eye(4).double(), torch.eye(4).double()
        found[:3, :3] = rotations[index].mT @ rotations[index + 1]
        wanted[:3, :3] = asked[index, :3, :3].mT @ asked[index + 1, :3, :3]
        errors.append(math.degrees(float(rotation_angle_rad(found, wanted))))
    return sum(errors) / len(errors)
