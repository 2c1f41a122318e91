"""The frames of a scene in the form of the method: one field of view, 256 pixels, with depth.

Used by the conversion to shards and by the check, so that what is checked is what is trained on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.conventions import check_rigid
from zeronvs.datasets.framing import Framing, frame_to, half_slopes
from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews

SHORT_SIDE_PX = 256
"""The published reader takes no other short side."""
OUTLYING_FOV = 0.75
"""A frame whose field of view is below this share of the scene's median is left out."""
Background = Literal["keep", "white"]
DepthEstimate = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b h w"]]
"""Relative depth of square images in [0, 1]."""


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
        scene: The scene.
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
        half_slope: Tangent of half the field of view along the short side.
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
