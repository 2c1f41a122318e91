"""JSON of shards: the camera of each frame, and the manifest of a folder of shards.

Two forms are read, distinguished by their keys (published code, ldm/data/webdataset_co3d.py and
webdataset_re10k.py):

    CO3D            R, T of PyTorch3D (row vectors), focal_length in NDC, principal_point (0, 0) and
                    scale_adjustment, which multiplies the depth map
    RealEstate10K   extrinsics: 4x4 OpenGL camera-to-world; intrinsics: 3x3 pixel to camera (inverse
                    of K). ACID has the same. So do our shards, with the camera of the centre square

Our shards have more under one key, "zeronvs", which the published reader ignores. Shards may be
downloaded: sizes are bounded and every number is checked.

`manifest.json` lists the content of a folder of shards:

    {"format": 1, "split": "train", "source": "...", "licence": "...", "shards": [
        {"file": "train-000000.tar", "bytes": 123, "scenes": [
            {"scene_id": "category/scene", "frames": 100, "fov_y_deg": 55.1,
             "depth_quantiles": [...], "scales": {"7dof": 1.0, ...}}]}]}

Shards without a manifest load too: it is for people, for splitting work, and for resuming a
conversion.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.files import parse_json, read_json, write_json
from zeronvs.cameras.camera import center_window
from zeronvs.cameras.conventions import LARGEST_NUMBER, camera_from_pytorch3d, check_rigid

MAX_METADATA_BYTES = 65_536
"""A frame's JSON is never larger; the published ones have 500 bytes."""
OWN_KEY = "zeronvs"
"""Key of the metadata that only our shards have."""
MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 30
"""A manifest is never larger; a hundred thousand scenes take 50 MB."""


@dataclass(frozen=True, eq=False)
class FrameCamera:
    """The camera of one frame, and the fields of its JSON about depth."""

    camera_to_world: Float[np.ndarray, "4 4"]
    """OpenGL, scene units."""
    focal_px: tuple[float, float]
    """(fx, fy), pixels of the stored image."""
    principal_px: tuple[float, float]
    """(cx, cy) in the centre square of the stored image, pixels."""
    published_fov_rad: float
    """The field of view that the published reader passes to the model, radians.

    It is that of the centre square, except for RealEstate10K JSON with the intrinsics of a whole
    landscape image: there it is that of the width.
    """
    scale_adjustment: float
    """Scene units per unit of the depth map."""
    own: dict[str, Any] = field(default_factory=dict)
    """The fields under our key; only known to be a dictionary."""


def parse_metadata(content: bytes) -> dict[str, Any]:
    """Read the JSON of one frame.

    Raises:
        InputError: It is too large, no JSON, or not an object.
    """
    if len(content) > MAX_METADATA_BYTES:
        raise InputError(f"metadata of {len(content)} bytes; at most {MAX_METADATA_BYTES}")
    metadata = parse_json(content, "metadata")
    if not isinstance(metadata, dict):
        raise InputError("metadata is not a JSON object")
    return metadata


def frame_camera(metadata: dict[str, Any], image_size_px: tuple[int, int]) -> FrameCamera:
    """Return the camera that a frame's JSON describes.

    Args:
        metadata: In one of the two forms.
        image_size_px: (height, width) of the stored image, before the centre crop.

    Raises:
        InputError: Neither form fits, or a number is missing, not finite or not a camera's.
    """
    if "extrinsics" in metadata:
        return _re10k_camera(metadata, image_size_px)
    if "focal_length" in metadata:
        return _co3d_camera(metadata, image_size_px)
    raise InputError("metadata has neither extrinsics (RealEstate10K) nor focal_length (CO3D)")


def re10k_metadata(
    camera_to_world: Float[np.ndarray, "4 4"],
    focal_px: float,
    side_px: int,
    own: dict[str, Any],
) -> dict[str, Any]:
    """Return the JSON of a frame whose centre square has square pixels and a centred camera.

    Args:
        camera_to_world: OpenGL, scene units.
        own: Fields to store under our key; NaN is not allowed.
    """
    half = 0.5 * side_px
    inverse = [[1 / focal_px, 0.0, -half / focal_px], [0.0, 1 / focal_px, -half / focal_px]]
    return {
        "extrinsics": [[float(value) for value in row] for row in camera_to_world],
        "intrinsics": [*inverse, [0.0, 0.0, 1.0]],
        OWN_KEY: own,
    }


def _re10k_camera(metadata: dict[str, Any], image_size_px: tuple[int, int]) -> FrameCamera:
    pose = _matrix(metadata, "extrinsics", ((4, 4), (3, 4)))
    pose = np.concatenate([pose[:3], [[0.0, 0.0, 0.0, 1.0]]])
    check_rigid(torch.from_numpy(pose))
    pixel_to_camera = _matrix(metadata, "intrinsics", ((3, 3),))
    try:
        intrinsics_px = np.linalg.inv(pixel_to_camera)
    except np.linalg.LinAlgError as error:
        raise InputError("intrinsics cannot be inverted") from error
    fx, fy = float(intrinsics_px[0, 0]), float(intrinsics_px[1, 1])
    cx, cy = float(intrinsics_px[0, 2]), float(intrinsics_px[1, 2])
    _check_focal(fx, fy)
    published_fov_rad = 2 * math.atan2(cx, fx)
    own = metadata.get(OWN_KEY)
    own = own if isinstance(own, dict) else {}
    if "principal_px" in own:
        cx, cy = _numbers(own, "principal_px", 2)
    else:
        # Either K is of the centre square or of the whole image: whichever centre is nearer.
        rows, columns = center_window(*image_size_px)
        cx = _in_square(cx, image_size_px[1], columns)
        cy = _in_square(cy, image_size_px[0], rows)
    return FrameCamera(pose, (fx, fy), (cx, cy), published_fov_rad, 1.0, own)


def _co3d_camera(metadata: dict[str, Any], image_size_px: tuple[int, int]) -> FrameCamera:
    rotation = torch.from_numpy(_matrix(metadata, "R", ((3, 3),)))
    translation = torch.tensor(_numbers(metadata, "T", 3), dtype=torch.float64)
    check_rigid(torch.cat([rotation, translation[:, None]], dim=1))
    focal_ndc = _numbers(metadata, "focal_length", 2)
    principal_ndc = _numbers(metadata, "principal_point", 2)
    # Whether +-1 is the short side or every side: along the short side, which has the larger
    # focal length, both conventions agree. So the camera of the centre square follows.
    focal = max(focal_ndc)
    side_px = min(image_size_px)
    camera = camera_from_pytorch3d(
        rotation,
        translation,
        torch.tensor([focal, focal], dtype=torch.float64),
        torch.tensor(principal_ndc, dtype=torch.float64),
        (side_px, side_px),
    )
    intrinsics_px = camera.intrinsics_px.numpy()
    focal_px = float(intrinsics_px[0, 0])
    _check_focal(focal_px, focal_px)
    principal_px = (float(intrinsics_px[0, 2]), float(intrinsics_px[1, 2]))
    pose = camera.camera_to_world.numpy()
    scale_adjustment = 1.0
    if "scale_adjustment" in metadata:
        scale_adjustment = _number(metadata["scale_adjustment"], "scale_adjustment")
        if scale_adjustment <= 0:
            raise InputError(f"scale_adjustment is {scale_adjustment}, not above 0")
    fov_rad = 2 * math.atan2(1.0, focal)
    return FrameCamera(pose, (focal_px, focal_px), principal_px, fov_rad, scale_adjustment)


def _in_square(principal_px: float, length_px: int, window: slice) -> float:
    """Return a coordinate of the principal point in the centre square.

    Args:
        principal_px: The coordinate, in the centre square or in the whole image.
        length_px: Side of the whole image along this axis.
        window: Pixels of the centre square along this axis.
    """
    middle_px = 0.5 * (window.stop - window.start)
    if abs(principal_px - 0.5 * length_px) < abs(principal_px - middle_px):
        return principal_px - window.start
    return principal_px


def _check_focal(fx: float, fy: float) -> None:
    if not (0 < fx < LARGEST_NUMBER and 0 < fy < LARGEST_NUMBER):
        raise InputError(f"focal lengths are {fx:g}, {fy:g} px; they must be above 0")


def _matrix(
    metadata: dict[str, Any], key: str, shapes: tuple[tuple[int, int], ...]
) -> Float[np.ndarray, "rows columns"]:
    rows = metadata.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{key} is not a matrix")
    if (len(rows), len(rows[0]) if rows else 0) not in shapes or len({len(r) for r in rows}) != 1:
        raise InputError(f"{key} has not the shape of a {shapes[0][0]}x{shapes[0][1]} matrix")
    return np.array([[_number(value, key) for value in row] for row in rows])


def _numbers(metadata: dict[str, Any], key: str, count: int) -> list[float]:
    values = metadata.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise InputError(f"{key} is not a list of {count} numbers")
    return [_number(value, key) for value in values]


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key} holds {type(value).__name__}, not a number")
    if not abs(value) < LARGEST_NUMBER:
        raise InputError(f"{key} holds {value}, which no camera has")
    return float(value)


@dataclass(frozen=True)
class SceneEntry:
    """One scene of the manifest."""

    scene_id: str
    """ "category/scene"."""
    frames: int
    fov_y_deg: float
    """Field of view of the first frame's centre square."""
    depth_quantiles: tuple[float | None, ...]
    """Medians over the frames of each of `statistics.DEPTH_QUANTILES`, scene units."""
    scales: dict[str, float | None]
    """Scene scale by the published name of the representation; the viewer scale is the median over
    the frames."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard of the manifest."""

    file: str
    """Name of the tar, in the manifest's folder."""
    bytes: int
    scenes: tuple[SceneEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """Content of a folder of shards."""

    split: str
    """E.g. "train"."""
    source: str
    """Description of the origin of the scenes."""
    shards: tuple[ShardEntry, ...] = ()
    licence: str | None = None

    @property
    def scene_ids(self) -> set[str]:
        """The scenes of all shards."""
        return {scene.scene_id for shard in self.shards for scene in shard.scenes}


def read_manifest(folder: Path) -> Manifest | None:
    """Read `manifest.json` of a folder; None where there is none.

    Raises:
        InputError: It cannot be read, or is not a manifest.
    """
    path = folder / MANIFEST_FILE
    kinds = (OSError, ValueError, KeyError, TypeError, AttributeError)
    with ReadingErrors(f"{path} is not a manifest of shards", *kinds):
        if not path.exists():
            return None
        content = read_json(path, max_bytes=MAX_MANIFEST_BYTES)
        if content["format"] != MANIFEST_FORMAT:
            raise InputError(
                f"{path} has format {content['format']!r}; this reads {MANIFEST_FORMAT}"
            )
        shards = tuple(_shard_entry(entry) for entry in content["shards"])
        licence = content.get("licence")
        return Manifest(
            str(content["split"]),
            str(content["source"]),
            shards,
            None if licence is None else str(licence),
        )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` of a folder, whole or not at all."""
    content: dict[str, Any] = {"format": MANIFEST_FORMAT, "split": manifest.split}
    content["source"] = manifest.source
    if manifest.licence is not None:
        content["licence"] = manifest.licence
    content["shards"] = [asdict(shard) for shard in manifest.shards]
    write_json(folder / MANIFEST_FILE, content)


def finite_or_none(value: float) -> float | None:
    """Return a number as JSON can hold it: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def _shard_entry(entry: dict[str, Any]) -> ShardEntry:
    name = entry["file"]
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise InputError("a manifest names a shard outside its folder")
    scenes = tuple(
        SceneEntry(
            str(scene["scene_id"]),
            int(scene["frames"]),
            float(scene["fov_y_deg"]),
            tuple(None if v is None else float(v) for v in scene["depth_quantiles"]),
            {str(k): None if v is None else float(v) for k, v in scene["scales"].items()},
        )
        for scene in entry["scenes"]
    )
    return ShardEntry(name, int(entry["bytes"]), scenes)
