"""The frames of a scene as the method wants them: one field of view, 256 pixels, depth beside.

Used by the conversion to shards and by the check, so that what is checked is what is trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from zeronvs._core.errors import InputError
from zeronvs.cameras.conventions import check_rigid
from zeronvs.datasets.framing import Framing, frame_to, half_slopes
from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews

SHORT_SIDE_PX = 256
"""The published reader takes no other short side."""
OUTLYING_FOV = 0.75
"""A frame whose field of view is below this share of the scene's median is left out."""
Background = Literal["keep", "white"]


@dataclass(frozen=True)
class ChosenFrame:
    """A frame that can be used, and how far its picture will reach."""

    frame: SceneFrame
    half_slope: float
    """Tangent of half the field of view along the short side; the same for the whole scene."""


@dataclass(frozen=True, eq=False)
class ShownFrame:
    """A frame at its final size."""

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
) -> list[ChosenFrame]:
    """Choose the frames that can be used and the one field of view that all of them can show.

    Args:
        scene: The scene.
        notes: A sentence is appended for what is left out.
        max_frames: At most so many, evenly spread.
    """
    usable = []
    for frame in scene.frames:
        try:
            check_rigid(frame.camera.camera_to_world)
            usable.append(ChosenFrame(frame, min(half_slopes(frame.camera, frame.lens))))
        except InputError as error:
            notes.append(f"{frame.name} left out: {error}")
    if not usable:
        return []
    least = OUTLYING_FOV * float(np.median([chosen.half_slope for chosen in usable]))
    kept = [chosen for chosen in usable if chosen.half_slope >= least]
    if len(kept) < len(usable):
        notes.append(
            f"{len(usable) - len(kept)} frames left out: their field of view is far below the "
            "others', and a scene has one"
        )
    common = min(chosen.half_slope for chosen in kept)
    if max_frames is not None and len(kept) > max_frames:
        places = np.linspace(0, len(kept) - 1, max_frames).round().astype(int)
        kept = [kept[place] for place in places]
    return [ChosenFrame(chosen.frame, common) for chosen in kept]


def show_frames(
    chosen: list[ChosenFrame],
    notes: list[str],
    *,
    square: bool = True,
    background: Background = "keep",
) -> Iterator[ShownFrame]:
    """Read, cut and resize frame after frame; what cannot be read is noted and left out."""
    small = 0
    for candidate in chosen:
        try:
            pixels = candidate.frame.read()
            small += min(pixels.image.shape[:2]) < SHORT_SIDE_PX
            yield _shown(candidate, pixels, square=square, background=background)
        except InputError as error:
            notes.append(f"{candidate.frame.name} left out: {error}")
    if small:
        notes.append(f"{small} frames are smaller than {SHORT_SIDE_PX} px and were enlarged")


def _shown(
    chosen: ChosenFrame, pixels: FramePixels, *, square: bool, background: Background
) -> ShownFrame:
    framing = frame_to(
        chosen.frame.camera_for(pixels.image.shape[:2]),
        chosen.frame.lens,
        half_slope=chosen.half_slope,
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
    return ShownFrame(chosen.frame.name, framing, image, depth_z.astype(np.float32), disparity)
