"""Cameras in JSON: nerfstudio's `transforms.json` (read, written), `camera_path.json` (read).

`transforms.json` (also instant-ngp's and the original NeRF's) lists images with their cameras;
`camera_path.json` is a path saved in nerfstudio's viewer. Poses are OpenGL camera-to-world, as
ours. Intrinsics stand in the file or in each frame, as `fl_x` or as `camera_angle_x`.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import parse_json, read_json, read_text, write_json
from zeronvs.cameras.camera import Camera, intrinsics_matrix
from zeronvs.cameras.conventions import check_rigid
from zeronvs.cameras.lens import Lens
from zeronvs.formats.re10k import camera_path_from_re10k

_MAX_BYTES = 256 * 2**20
_MAX_SIDE_PX = 65_536
_MAX_NUMBER = 1e9
"""Larger numbers are no camera's, and squares of much larger ones overflow float32."""
_ROTATION_TOLERANCE = 1e-3
_FISHEYE = "fisheye"
_UNSUPPORTED_MODELS = ("fisheye624", "equirect", "omnidirectional", "vr180", "ortho", "spherical")
"""Parts of the names of camera models that are neither pinholes nor OpenCV's fisheye."""
NORMALIZED_WORLD_FILE = "dataparser_transforms.json"
"""nerfstudio's similarity from the world of the images to that of its viewer."""


def read_camera_path(
    path: Path,
    *,
    image_size_px: tuple[int, int] | None = None,
    notes: list[str] | None = None,
) -> Camera:
    """Read the cameras of a file, in its order; image paths in it are never looked at.

    The format is chosen by content: JSON with `camera_path` or with `frames`, else RealEstate10K.
    Lens distortion is dropped: our cameras are pinholes. Where nerfstudio's
    `dataparser_transforms.json` is in the folder of a `camera_path` file, its similarity is undone:
    the viewer saves paths in a world that it has rotated, centred and scaled.

    Args:
        image_size_px: (height, width) of the returned cameras. The vertical field of view is kept
            and the image cropped or widened at its sides. None keeps the size in the file;
            RealEstate10K files have none.
        notes: A sentence for the user is appended for each assumption.

    Returns:
        A batch of cameras, float32, all of one image size.

    Raises:
        InputError: The file cannot be read, or is no camera path.
    """
    if not path.exists():
        raise InputError(f"there is no camera file {path}")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give a camera_path.json, transforms.json or txt")
    text = read_text(path, max_bytes=_MAX_BYTES)
    if not text.strip():
        raise InputError(f"{path.name} is empty; it should hold a camera path")
    if text.lstrip()[:1] in ("{", "["):
        return _cameras_from_json(text, path, image_size_px, [] if notes is None else notes)
    if path.suffix.lower() == ".json":
        raise InputError(f"{path.name} is not JSON: it should begin with '{{'")
    return camera_path_from_re10k(text, path.name, image_size_px)


def read_frames(path: Path) -> list[dict[str, Any]]:
    """Read the frames of a `transforms.json`, each merged with the fields that all frames share.

    `frame_camera` and `frame_lens` take a frame apart, so that a bad frame need not cost the rest.

    Raises:
        InputError: The file cannot be read, or has no list of frames.
    """
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list):
        raise InputError(f"{path} has no list 'frames'")
    return [{**_shared(content), **f} if isinstance(f, dict) else {"frame": f} for f in frames]


def write_transforms(
    path: Path,
    cameras: Camera,
    image_paths: Sequence[Path],
    *,
    extra: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write a batch of cameras as `transforms.json`, which nerfstudio and many others read.

    Args:
        path: The file to write. Image paths are written relative to its folder, so that a folder
            with cameras and images can be moved.
        cameras: One camera an image, with one leading axis.
        extra: Fields to add, for each frame.

    Raises:
        ValueError: There are not as many images as cameras.
    """
    if len(cameras) != len(image_paths):
        raise ValueError(f"{len(cameras)} cameras, but {len(image_paths)} images")
    folder = path.parent.resolve()
    height_px, width_px = cameras.image_size_px
    size = {"w": width_px, "h": height_px}
    frames = [
        {
            "file_path": Path(os.path.relpath(image_path.resolve(), folder)).as_posix(),
            **_intrinsics_fields(intrinsics_px),
            **size,
            "transform_matrix": pose,
            **fields,
        }
        for fields, image_path, pose, intrinsics_px in zip(
            extra or [{}] * len(image_paths),
            image_paths,
            cameras.camera_to_world.tolist(),
            cameras.intrinsics_px.tolist(),
            strict=True,
        )
    ]
    first = _intrinsics_fields(cameras.intrinsics_px[0].tolist()) if frames else {}
    write_json(path, {"camera_model": "PINHOLE", **first, **size, "frames": frames})


def frame_camera(
    frame: dict[str, Any], where: str, *, image_size_px: tuple[int, int] | None = None
) -> Camera:
    """Return the camera of one frame of `read_frames`, without its distortion.

    Args:
        frame: Merged with the fields that all frames share.
        where: File and frame, for messages.
        image_size_px: (height, width) where the frame has none, as in the original NeRF's files.

    Raises:
        InputError: A field is missing or no camera's, or the model is not supported.
    """
    if frame.get("w") is None and frame.get("h") is None and image_size_px is not None:
        frame = {**frame, "h": image_size_px[0], "w": image_size_px[1]}
    _check_model(frame, where, _UNSUPPORTED_MODELS)
    size_px = (_size(frame, "h", where), _size(frame, "w", where))
    focal_x = _focal_px(frame, "x", size_px[1], where)
    focal_y = _focal_px(frame, "y", size_px[0], where)
    if focal_x is None and focal_y is None:
        raise InputError(f"{where}: the lens is missing; expected 'fl_x' or 'camera_angle_x'")
    centre_x = 0.5 * size_px[1] if frame.get("cx") is None else _number(frame, "cx", where)
    centre_y = 0.5 * size_px[0] if frame.get("cy") is None else _number(frame, "cy", where)
    focal_px = (focal_x or focal_y, focal_y or focal_x)
    intrinsics_px = intrinsics_matrix(*torch.tensor([focal_px, (centre_x, centre_y)]))
    pose = _pose(frame.get("transform_matrix"), "transform_matrix", where)
    return Camera(pose, intrinsics_px, size_px)


def frame_lens(frame: dict[str, Any], where: str) -> Lens:
    """Return the distortion of one frame of `read_frames`, in OpenCV's models.

    Raises:
        InputError: A coefficient is not a number.
    """

    def number(name: str) -> float:
        return 0.0 if frame.get(name) is None else _number(frame, name, where)

    if _FISHEYE in str(frame.get("camera_model", "")).lower() or frame.get("is_fisheye"):
        return Lens(radial=tuple(number(f"k{i}") for i in (1, 2, 3, 4)), fisheye=True)
    return Lens(
        radial=tuple(number(f"k{i}") for i in (1, 2, 3)),
        radial_divisor=(number("k4"), number("k5"), number("k6")),
        tangential=(number("p1"), number("p2")),
    )


def _intrinsics_fields(intrinsics_px: list[list[float]]) -> dict[str, float]:
    """Return intrinsics under nerfstudio's names."""
    (fl_x, _, cx), (_, fl_y, cy), _ = intrinsics_px
    return {"fl_x": fl_x, "fl_y": fl_y, "cx": cx, "cy": cy}


def _cameras_from_json(
    text: str, path: Path, image_size_px: tuple[int, int] | None, notes: list[str]
) -> Camera:
    """Read either kind of JSON."""
    name = path.name
    content = parse_json(text, name)
    if not isinstance(content, dict):
        raise InputError(f"{name} is a JSON {type(content).__name__}, not an object with cameras")
    key = next((key for key in ("camera_path", "frames") if content.get(key) is not None), None)
    if key is None and "keyframes" in content:
        raise InputError(f"{name} has keyframes but no path; let nerfstudio export it again")
    if key is None:
        raise InputError(f"{name} has neither 'camera_path' nor 'frames'; it is no camera path")
    frames = content[key]
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{name}: {key!r} should be a list of at least one frame")
    for holder in (content, *frames):
        _check_model(holder, name, (*_UNSUPPORTED_MODELS, _FISHEYE))
    read = _camera_of_path if key == "camera_path" else frame_camera
    shared = {**_size_where_missing(image_size_px), **_shared(content)}
    cameras = [
        read({**shared, **frame}, f"{name}, frame {index}") for index, frame in enumerate(frames)
    ]
    if image_size_px is not None:
        cameras = [_at_size(camera, image_size_px) for camera in cameras]
    sizes = sorted({camera.image_size_px for camera in cameras})
    if len(sizes) > 1:
        raise InputError(
            f"{name} has frames of different sizes (height, width), {sizes[0]} and {sizes[-1]}; "
            "give the image size that all shall have"
        )
    cameras = Camera.stack(cameras)
    if read is not _camera_of_path:
        return cameras
    beside = path.with_name(NORMALIZED_WORLD_FILE)
    if beside.exists():
        notes.append(
            f"{name} was saved in the world of nerfstudio's viewer; it was brought back to that of "
            f"the scene by {NORMALIZED_WORLD_FILE} beside it."
        )
        return _in_scene_world(cameras, beside)
    if content.get("keyframes"):
        notes.append(
            f"{name} was saved in a viewer. If nerfstudio had rotated, centred or scaled the "
            f"scene, put its {NORMALIZED_WORLD_FILE} beside it, or the path leads elsewhere."
        )
    return cameras


def _in_scene_world(cameras: Camera, path: Path) -> Camera:
    """Undo nerfstudio's similarity, x_viewer = scale * (rotation x + shift)."""
    content = read_json(path)
    frame = content if isinstance(content, dict) else {}
    scale = _number(frame, "scale", path.name)
    if scale <= 0:
        raise InputError(f"{path.name}: 'scale' should be above 0, got {scale:g}")
    to_viewer = _pose(frame.get("transform"), "transform", path.name).double()
    pose = cameras.camera_to_world.double().clone()
    pose[:, :3, 3] /= scale
    pose = torch.linalg.inv(to_viewer) @ pose
    return Camera(pose.float(), cameras.intrinsics_px, cameras.image_size_px)


def _size_where_missing(image_size_px: tuple[int, int] | None) -> dict[str, Any]:
    """Return the size of images in files that have none, as the first NeRF's have."""
    if image_size_px is None:
        return {}
    height_px, width_px = image_size_px
    return {"h": height_px, "w": width_px, "render_height": height_px, "render_width": width_px}


def _check_model(frame: Any, where: str, unsupported: tuple[str, ...]) -> None:
    """Refuse frames that are no objects, and camera models that cannot be undone."""
    if not isinstance(frame, dict):
        raise InputError(f"{where}: a frame should be an object, got {_short(frame)}")
    for key in ("camera_type", "camera_model"):
        model = str(frame.get(key, "")).lower()
        if any(part in model for part in unsupported):
            raise InputError(f"{where}: cameras of the {key} {_short(model)} are not supported")


def _shared(content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that all frames of a file share."""
    lists = ("camera_path", "frames", "keyframes", "transform_matrix")
    return {key: value for key, value in content.items() if key not in lists}


def _camera_of_path(frame: dict[str, Any], where: str) -> Camera:
    """Read one frame of a `camera_path.json`, merged with the fields that all frames share."""
    size_px = (_size(frame, "render_height", where), _size(frame, "render_width", where))
    fov_key = "fov" if "fov" in frame else "default_fov"
    fov_deg = _number(frame, fov_key, where)
    if not 0 < fov_deg < 180:
        raise InputError(f"{where}: the field of view should be in (0, 180) degrees, got {fov_deg}")
    pose = _pose(frame.get("camera_to_world"), "camera_to_world", where)
    return Camera.from_fov(pose, math.radians(fov_deg), size_px)


def _focal_px(frame: dict[str, Any], axis: str, side_px: int, where: str) -> float | None:
    """Read a focal length, given as such or as a field of view in radians."""
    if frame.get(f"fl_{axis}") is not None:
        focal_px = _number(frame, f"fl_{axis}", where)
    elif frame.get(f"camera_angle_{axis}") is not None:
        angle_rad = _number(frame, f"camera_angle_{axis}", where)
        focal_px = 0.5 * side_px / math.tan(0.5 * angle_rad) if 0 < angle_rad < math.pi else 0.0
    else:
        return None
    if focal_px <= 0:
        raise InputError(f"{where}: the focal length along {axis} should be above 0")
    return focal_px


def _size(frame: dict[str, Any], key: str, where: str) -> int:
    """Read a side of the image in pixels."""
    if key not in frame:
        raise InputError(f"{where}: there is no image size ({key!r} is missing); give one")
    value = _number(frame, key, where)
    if not 1 <= value <= _MAX_SIDE_PX or value != int(value):
        raise InputError(f"{where}: {key!r} should be a number of pixels, got {value:g}")
    return int(value)


def _number(frame: dict[str, Any], key: str, where: str) -> float:
    """Read a finite number of a bounded size."""
    value = frame.get(key)
    if not _is_number(value):
        observed = "it is missing" if value is None else f"got {_short(value)}"
        raise InputError(f"{where}: {key!r} should be a number; {observed}")
    return float(value)


def _pose(rows: Any, key: str, where: str) -> Float[Tensor, "4 4"]:
    """Read a rigid camera-to-world matrix, flat or nested, with or without its last row."""
    flat = rows if isinstance(rows, list) else []
    if all(isinstance(row, list) for row in flat):
        flat = [value for row in flat for value in row]
    if len(flat) not in (12, 16) or not all(_is_number(value) for value in flat):
        raise InputError(
            f"{where}: {key!r} should be 4x4 finite numbers below {_MAX_NUMBER:g}, "
            f"got {_short(rows)}"
        )
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.tensor([float(value) for value in flat[:12]], dtype=torch.float64).view(3, 4)
    check_rigid(pose, tolerance=_ROTATION_TOLERANCE, where=f"{where}: ")
    return pose.float()


def _at_size(camera: Camera, image_size_px: tuple[int, int]) -> Camera:
    """Scale a camera to a height and cut or widen its image at both sides to a width."""
    height_px, width_px = image_size_px
    scale = height_px / camera.image_size_px[0]
    intrinsics_px = camera.intrinsics_px.clone()
    intrinsics_px[..., :2, :] *= scale
    intrinsics_px[..., 0, 2] += 0.5 * (width_px - scale * camera.image_size_px[1])
    return Camera(camera.camera_to_world, intrinsics_px, image_size_px)


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a JSON value is a finite number of bounded size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _MAX_NUMBER


def _short(value: Any) -> str:
    """Return a value as text that fits into an error line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
