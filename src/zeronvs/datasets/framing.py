"""Resampling of the frames of a scene to the camera of the method (paper, section 3).

Short side 256, square pixels, centred principal point, no distortion, and one field of view for all
frames of a scene. The window of the image that such a camera sees is cut out and resized in one
resampling of the original pixels, so that the camera is exact. Used by the conversion to shards and
by the check, so that training sees the images that were checked.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import check_rigid
from zeronvs.cameras.lens import Lens
from zeronvs.cameras.warp import project
from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews

DENSE_SHARE = 0.3
"""A depth map with a larger share of known pixels is resampled as a surface, else as points."""
MOST_ASPECT = 4.0
FOV_RANGE_DEG = (3.0, 160.0)
"""Fields of view outside this are no camera of a scene."""
SHORT_SIDE_PX = 256
"""The published reader takes no other short side."""
OUTLYING_FOV = 0.75
"""A frame whose field of view is below this share of the scene's median is left out."""
Background = Literal["keep", "white"]
DepthEstimate = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b h w"]]
"""Relative depth of square images in [0, 1]."""


@dataclass(frozen=True)
class Framing:
    """Crop of one frame, from its own camera to one with a centred principal point."""

    camera: Camera
    """Camera of the original image at its stored size, without distortion."""
    lens: Lens
    target: Camera
    """Camera of the result: centred, square pixels, no distortion."""

    def image(self, pixels: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "th tw 3"]:
        """Cut and resize the pixels, each the mean of what it covers."""
        height, width = self.target.image_size_px
        if self.lens.is_pinhole:
            left, top, right, bottom = self._window_px()
            source = Image.fromarray(pixels)
            box = (max(left, 0.0), max(top, 0.0), min(right, source.width), bottom)
            box = (*box[:3], min(bottom, source.height))
            return np.asarray(source.resize((width, height), Image.Resampling.BICUBIC, box=box))
        left, _, right, _ = self._window_px()
        shrink = min(1.0, 1.25 * width / max(right - left, 1.0))
        size = (round(pixels.shape[1] * shrink), round(pixels.shape[0] * shrink))
        small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        uv_px = self.source_positions() / np.array([pixels.shape[1], pixels.shape[0]])
        grid = torch.from_numpy(uv_px * 2 - 1).float()[None]
        image = torch.from_numpy(small.astype(np.float32)).permute(2, 0, 1)[None]
        resampled = F.grid_sample(
            image, grid, mode="bicubic", padding_mode="border", align_corners=False
        )
        return resampled[0].permute(1, 2, 0).round().clamp(0, 255).numpy().astype(np.uint8)

    def map_nearest(self, values: Float[ndarray, "h w"]) -> Float[ndarray, "th tw"]:
        """Read a map of any size of the same view at the nearest pixel of each new one."""
        height, width = self.camera.image_size_px
        uv_px = self.source_positions() / np.array([width, height])
        row = np.clip((uv_px[..., 1] * values.shape[0]).astype(np.int64), 0, values.shape[0] - 1)
        column = np.clip((uv_px[..., 0] * values.shape[1]).astype(np.int64), 0, values.shape[1] - 1)
        return values[row, column]

    def depth(self, depth_z: Float[ndarray, "h w"]) -> Float[ndarray, "th tw"]:
        """Resample a depth map (0 = unknown): dense maps as surfaces, sparse ones as points."""
        depth_z = np.where(np.isfinite(depth_z) & (depth_z > 0), depth_z, 0).astype(np.float32)
        if (depth_z > 0).mean() > DENSE_SHARE:
            return self.map_nearest(depth_z)
        row, column = np.nonzero(depth_z)
        size = np.array([depth_z.shape[1], depth_z.shape[0]])
        uv = (np.stack([column, row], axis=-1) + 0.5) / size
        height, width = self.camera.image_size_px
        slopes = self._undistorted(uv * np.array([width, height]))
        matrix = self.target.intrinsics_px.double().numpy()
        uv_px = slopes * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
        return self._splat(uv_px, depth_z[row, column].astype(np.float64))

    def points(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "th tw"]:
        """Draw world points that this view observed into a sparse depth map; the nearest wins."""
        camera = self.target.to(dtype=torch.float64)
        uv_px, depth_z = project(torch.from_numpy(points.astype(np.float64)), camera)
        return self._splat(uv_px.numpy(), depth_z.numpy())

    def source_positions(self) -> Float[ndarray, "th tw 2"]:
        """Return where in the original image (u, v in its pixels) each new pixel centre lies."""
        height, width = self.target.image_size_px
        u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        slopes = _slopes(np.stack([u, v], axis=-1), self.target.intrinsics_px)
        matrix = self.camera.intrinsics_px.double().numpy()
        distorted = slopes if self.lens.is_pinhole else self.lens.distorted(slopes)
        return distorted * matrix[[0, 1], [0, 1]] + matrix[:2, 2]

    def _window_px(self) -> tuple[float, float, float, float]:
        height, width = self.target.image_size_px
        target, own = self.target.intrinsics_px.double(), self.camera.intrinsics_px.double()
        half_x = float(0.5 * width * own[0, 0] / target[0, 0])
        half_y = float(0.5 * height * own[1, 1] / target[1, 1])
        centre_x, centre_y = float(own[0, 2]), float(own[1, 2])
        return centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y

    def _undistorted(self, uv_px: Float[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Return the slopes of the scene that land at pixels (fixed-point iteration)."""
        distorted = _slopes(uv_px, self.camera.intrinsics_px)
        slopes = distorted
        if not self.lens.is_pinhole:
            for _ in range(20):
                slopes = slopes + distorted - self.lens.distorted(slopes)
        return slopes

    def _splat(
        self, uv_px: Float[ndarray, "n 2"], depth_z: Float[ndarray, " n"]
    ) -> Float[ndarray, "th tw"]:
        """Draw depths at pixel positions of the target."""
        height, width = self.target.image_size_px
        good = np.isfinite(uv_px).all(-1) & np.isfinite(depth_z) & (depth_z > 1e-9)
        good &= (uv_px >= 0).all(-1) & (uv_px < np.array([width, height])).all(-1)
        column, row = uv_px[good].astype(np.int64).T
        depth_z = depth_z[good]
        order = np.argsort(-depth_z)  # the nearest is written last
        drawn = np.zeros((height, width), np.float32)
        drawn[row[order], column[order]] = depth_z[order]
        return drawn


def half_slopes(camera: Camera, lens: Lens) -> tuple[float, float]:
    """Return how far (x, y; slopes) a window about the optical axis can reach within the image.

    Raises:
        InputError: The lens or the principal point leaves no image to use.
    """
    height, width = camera.image_size_px
    matrix = camera.intrinsics_px.double().numpy()
    if not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise InputError("the intrinsics are not finite, or a focal length is not above 0")
    reach_x = min(matrix[0, 2], width - matrix[0, 2]) / matrix[0, 0]
    reach_y = min(matrix[1, 2], height - matrix[1, 2]) / matrix[1, 1]
    if min(reach_x, reach_y) <= 0:
        raise InputError("the principal point lies outside the image")
    if not lens.is_pinhole:
        reach_x, reach_y = _reach_through(lens, matrix, (height, width), reach_x, reach_y)
    fov_deg = math.degrees(2 * math.atan(min(reach_x, reach_y)))
    if not FOV_RANGE_DEG[0] < fov_deg < FOV_RANGE_DEG[1]:
        raise InputError(f"the field of view is {fov_deg:.1f} degrees, which is no scene's camera")
    return reach_x, reach_y


def frame_to(
    camera: Camera,
    lens: Lens,
    *,
    half_slope: float,
    short_side_px: int,
    square: bool,
) -> Framing:
    """Return how to cut a frame so that its short side spans exactly this slope both ways.

    Args:
        half_slope: Tangent of half the field of view along the short side; at most `half_slopes`.
        square: Cut the centre square; else keep the longer side as far as the image reaches.
    """
    focal_px = 0.5 * short_side_px / half_slope
    sides = [short_side_px, short_side_px]
    reach = half_slopes(camera, lens)
    if not square:
        along = int(reach[1] > reach[0])
        most = min(focal_px * reach[along], 0.5 * MOST_ASPECT * short_side_px)
        # An even difference keeps the centre crop of readers on whole pixels.
        extra = int(2 * most + 1e-6) - short_side_px
        sides[along] = short_side_px + max(0, extra - extra % 2)
    width, height = sides
    fov_y_rad = 2 * math.atan(0.5 * height / focal_px)
    target = Camera.from_fov(camera.camera_to_world, fov_y_rad, (height, width))
    return Framing(camera, lens, target)


def _reach_through(
    lens: Lens, matrix: ndarray, size: tuple[int, int], reach_x: float, reach_y: float
) -> tuple[float, float]:
    """Shrink the window until its whole border lands inside the image."""
    height, width = size
    if lens.fisheye:
        reach_x, reach_y = (math.tan(min(reach, 1.2)) for reach in (reach_x, reach_y))
    for shrink in np.linspace(1.3, 0.3, 101):
        edge = np.linspace(-1, 1, 33)
        ones = np.ones_like(edge)
        border = np.concatenate(
            [
                np.stack(pair, -1)
                for pair in ((edge, ones), (edge, -ones), (ones, edge), (-ones, edge))
            ]
        ) * np.array([reach_x * shrink, reach_y * shrink])
        border_px = lens.distorted(border) * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
        inside = (border_px >= 0).all() and (border_px <= np.array([width, height])).all()
        if inside and not lens.folds(shrink * max(reach_x, reach_y)):
            return reach_x * shrink, reach_y * shrink
    raise InputError("the lens distortion is too strong; undistort the images first")


def _slopes(uv_px: Float[ndarray, "*n 2"], intrinsics_px: Float[Tensor, "3 3"]) -> ndarray:
    matrix = intrinsics_px.double().numpy()
    return (uv_px - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]


@dataclass(frozen=True, eq=False)
class LoadedFrame:
    """A frame at its final size, decoded."""

    name: str
    framing: Framing
    """`framing.target` is its camera."""
    image: UInt8[ndarray, "h w 3"]
    depth_z: Float[ndarray, "h w"]
    """Known depth, scene units; 0 = unknown."""
    disparity: Float[ndarray, "h w"] | None
    """Relative inverse depth that came with the source."""


def choose_frames(
    scene: SceneViews, notes: list[str], *, max_frames: int | None = None
) -> tuple[
    list[SceneFrame],
    float,  # tangent of half the field of view along the short side, common to all frames
]:
    """Choose the frames that can be used and the widest field of view that all of them have.

    Args:
        notes: A sentence is appended for what is left out.
        max_frames: At most so many, evenly spread.
    """
    usable: list[tuple[SceneFrame, float]] = []
    for frame in scene.frames:
        try:
            check_rigid(frame.camera.camera_to_world)
            usable.append((frame, min(half_slopes(frame.camera, frame.lens))))
        except InputError as error:
            notes.append(f"{frame.name} left out: {error}")
    if not usable:
        return [], 0.0
    least = OUTLYING_FOV * float(np.median([half_slope for _, half_slope in usable]))
    kept = [(frame, half_slope) for frame, half_slope in usable if half_slope >= least]
    if len(kept) < len(usable):
        notes.append(
            f"{len(usable) - len(kept)} frames left out: their field of view is far below the "
            "others', and a scene has one"
        )
    common = min(half_slope for _, half_slope in kept)
    if max_frames is not None and len(kept) > max_frames:
        indices = np.linspace(0, len(kept) - 1, max_frames).round().astype(int)
        kept = [kept[index] for index in indices]
    return [frame for frame, _ in kept], common


def load_frames(
    frames: list[SceneFrame],
    half_slope: float,
    notes: list[str],
    *,
    square: bool = True,
    background: Background = "keep",
) -> Iterator[LoadedFrame]:
    """Decode, crop and resize frame after frame; unreadable ones are noted and left out.

    Args:
        frames: Chosen by `choose_frames`, as is `half_slope`.
        notes: A sentence is appended for what is left out.
        square: Crop the centre square; else keep the longer side as far as the image reaches.
        background: White puts masked objects on white and drops the depth around them.
    """
    small = 0
    for frame in frames:
        try:
            pixels = frame.read()
            small += min(pixels.image.shape[:2]) < SHORT_SIDE_PX
            yield _framed(frame, half_slope, pixels, square=square, background=background)
        except InputError as error:
            notes.append(f"{frame.name} left out: {error}")
    if small:
        notes.append(f"{small} frames are smaller than {SHORT_SIDE_PX} px and were enlarged")


def _framed(
    frame: SceneFrame,
    half_slope: float,
    pixels: FramePixels,
    *,
    square: bool,
    background: Background,
) -> LoadedFrame:
    framing = frame_to(
        frame.camera_for(pixels.image.shape[:2]),
        frame.lens,
        half_slope=half_slope,
        short_side_px=SHORT_SIDE_PX,
        square=square,
    )
    image = framing.image(pixels.image)
    depth_z = np.zeros(framing.target.image_size_px, np.float32)
    if pixels.points is not None:
        depth_z = framing.points(pixels.points)
    if pixels.depth_z is not None:
        known = framing.depth(pixels.depth_z)
        depth_z = np.where(known > 0, known, depth_z)
    if background == "white" and pixels.foreground is not None:
        mask = framing.map_nearest(pixels.foreground)
        image = (255 + mask[..., None] * (image.astype(np.float32) - 255)).round().astype(np.uint8)
        depth_z = np.where(mask > 0.5, depth_z, 0.0)
    disparity = None
    if pixels.disparity is not None:
        disparity = framing.map_nearest(pixels.disparity)
    return LoadedFrame(frame.name, framing, image, depth_z.astype(np.float32), disparity)
