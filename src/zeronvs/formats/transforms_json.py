"""Cameras in files: paths that other tools wrote, and files that other tools read.

Read: nerfstudio's `camera_path.json` and `transforms.json` (also instant-ngp's and the original
NeRF's), and RealEstate10K's text files. Written: the first two. Only cameras are read: image paths
in the files of strangers are never looked at, let alone opened.
"""

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

import torch

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_json
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import camera_from_re10k

_MOST_BYTES = 256 * 2**20
_MOST_PX = 65_536
_ROTATION_TOLERANCE = 1e-3
_BLIND_MODELS = ("fisheye", "equirect", "omnidirectional", "vr180", "ortho")
"""Parts of the names of camera models that no pinhole camera can stand for."""


def read_camera_path(path: Path, *, image_size_px: tuple[int, int] | None = None) -> Camera:
    """Read the cameras of a file, in its order.

    The format is chosen by content: JSON with `camera_path` or with `frames`, else RealEstate10K.
    Lens distortion is dropped: our cameras are pinholes.

    Args:
        path: The file.
        image_size_px: (height, width) that the cameras are wanted at. The vertical field of view is
            kept and the image cut or widened at its sides. None keeps the size in the file;
            RealEstate10K files have none.

    Returns:
        A batch of cameras, float32, all of one image size.

    Raises:
        InputError: The file cannot be read or says something that is no camera path.
    """
    text = _read_text(path)
    if text.lstrip()[:1] in ("{", "["):
        return _cameras_from_json(text, path.name, image_size_px)
    if path.suffix.lower() == ".json":
        raise InputError(f"{path.name} is not JSON: it should begin with '{{'")
    return _cameras_from_re10k_text(text, path.name, image_size_px)


def write_camera_path(path: Path, cameras: Camera, *, frames_per_second: float | int = 24) -> None:
    """Write a batch of cameras as nerfstudio's `camera_path.json`.

    The format knows vertical fields of view only, so that the principal point must lie in the
    middle of the image and the pixels must be square.

    Raises:
        ValueError: The cameras have another lens; `write_transforms` can say it.
    """
    height_px, width_px = cameras.image_size_px
    intrinsics_px = cameras.intrinsics_px
    middle_px = torch.tensor([0.5 * width_px, 0.5 * height_px]).to(intrinsics_px)
    off_px = (intrinsics_px[:, :2, 2] - middle_px).abs().max()
    uneven = (intrinsics_px[:, 0, 0] / intrinsics_px[:, 1, 1] - 1).abs().max()
    if off_px > 0.01 * height_px or uneven > 0.01:
        raise ValueError("camera_path.json holds centred, square pixels only; write transforms")
    frames = [
        {
            "camera_to_world": [value for row in pose for value in row],
            "fov": math.degrees(fov_y_rad),
            "aspect": width_px / height_px,
        }
        for pose, fov_y_rad in zip(
            cameras.camera_to_world.tolist(), cameras.fov_y_rad.tolist(), strict=True
        )
    ]
    content = {
        "camera_type": "perspective",
        "render_height": height_px,
        "render_width": width_px,
        "fps": frames_per_second,
        "seconds": len(cameras) / frames_per_second,
        "smoothness_value": 0,
        "is_cycle": False,
        "crop": None,
        "keyframes": [],
        "camera_path": frames,
    }
    write_json(path, content)


def write_transforms(path: Path, cameras: Camera, file_paths: list[str]) -> None:
    """Write a batch of cameras as `transforms.json`, which nerfstudio and many others read.

    Args:
        path: The file to write.
        cameras: As many as there are `file_paths`.
        file_paths: The image of each camera, relative to the folder of `path`.
    """
    height_px, width_px = cameras.image_size_px
    frames = [
        {
            "file_path": file_path,
            **_lens(intrinsics),
            "w": width_px,
            "h": height_px,
            "transform_matrix": pose,
        }
        for file_path, pose, intrinsics in zip(
            file_paths,
            cameras.camera_to_world.tolist(),
            cameras.intrinsics_px.tolist(),
            strict=True,
        )
    ]
    first = _lens(cameras.intrinsics_px[0].tolist()) if frames else {}
    size = {"w": width_px, "h": height_px}
    write_json(path, {"camera_model": "PINHOLE", **first, **size, "frames": frames})


def _lens(intrinsics_px: list[list[float]]) -> dict[str, float]:
    """Return intrinsics under nerfstudio's names."""
    (fl_x, _, cx), (_, fl_y, cy), _ = intrinsics_px
    return {"fl_x": fl_x, "fl_y": fl_y, "cx": cx, "cy": cy}


def _read_text(path: Path) -> str:
    """Return the text of a file, or say why there is none."""
    if not path.exists():
        raise InputError(f"there is no camera file {path}")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give a camera_path.json, transforms.json or txt")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path.name} is larger than 256 MiB, which no camera path is")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not text, so not a camera path") from error
    if not text.strip():
        raise InputError(f"{path.name} is empty; it should hold a camera path")
    return text


def _cameras_from_json(text: str, name: str, image_size_px: tuple[int, int] | None) -> Camera:
    """Read either kind of JSON."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: {error}") from error
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
        _check_model(holder, name)
    read = _camera_of_path if key == "camera_path" else _camera_of_transforms
    shared = {**_size_where_missing(image_size_px), **_without_frames(content)}
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
    return Camera.stack(cameras)


def _size_where_missing(image_size_px: tuple[int, int] | None) -> dict[str, Any]:
    """Return the size of images in files that have none, as the first NeRF's have."""
    if image_size_px is None:
        return {}
    height_px, width_px = image_size_px
    return {"h": height_px, "w": width_px, "render_height": height_px, "render_width": width_px}


def _check_model(holder: Any, name: str) -> None:
    """Refuse frames that are no objects, and cameras that are no pinholes."""
    if not isinstance(holder, dict):
        raise InputError(f"{name}: a frame should be an object, got {_short(holder)}")
    for key in ("camera_type", "camera_model"):
        model = str(holder.get(key, "")).lower()
        if any(part in model for part in _BLIND_MODELS):
            raise InputError(f"{name}: cameras of the {key} {model!r} are not supported")


def _without_frames(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of all its frames."""
    lists = ("camera_path", "frames", "keyframes", "transform_matrix")
    return {key: value for key, value in content.items() if key not in lists}


def _camera_of_path(frame: dict[str, Any], where: str) -> Camera:
    """Read one frame of a `camera_path.json`, merged with what the file says of all."""
    size_px = (_size(frame, "render_height", where), _size(frame, "render_width", where))
    fov_key = "fov" if "fov" in frame else "default_fov"
    fov_deg = _number(frame, fov_key, where)
    if not 0 < fov_deg < 180:
        raise InputError(f"{where}: the field of view should be in (0, 180) degrees, got {fov_deg}")
    pose = _pose(frame.get("camera_to_world"), "camera_to_world", where)
    return Camera.from_fov(pose, math.radians(fov_deg), size_px)


def _camera_of_transforms(frame: dict[str, Any], where: str) -> Camera:
    """Read one frame of a `transforms.json`, merged with what the file says of all."""
    size_px = (_size(frame, "h", where), _size(frame, "w", where))
    focal_x = _focal_px(frame, "x", size_px[1], where)
    focal_y = _focal_px(frame, "y", size_px[0], where)
    if focal_x is None and focal_y is None:
        raise InputError(f"{where}: the lens is missing; expected 'fl_x' or 'camera_angle_x'")
    centre_x = _number(frame, "cx", where) if "cx" in frame else 0.5 * size_px[1]
    centre_y = _number(frame, "cy", where) if "cy" in frame else 0.5 * size_px[0]
    intrinsics_px = torch.tensor(
        [[focal_x or focal_y, 0.0, centre_x], [0.0, focal_y or focal_x, centre_y], [0.0, 0.0, 1.0]]
    )
    pose = _pose(frame.get("transform_matrix"), "transform_matrix", where)
    return Camera(pose, intrinsics_px, size_px)


def _focal_px(frame: dict[str, Any], axis: str, side_px: int, where: str) -> float | None:
    """Read a focal length, given as such or as a field of view in radians."""
    if f"fl_{axis}" in frame:
        focal_px = _number(frame, f"fl_{axis}", where)
    elif f"camera_angle_{axis}" in frame:
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
    if not 1 <= value <= _MOST_PX or value != int(value):
        raise InputError(f"{where}: {key!r} should be a number of pixels, got {value:g}")
    return int(value)


def _number(frame: dict[str, Any], key: str, where: str) -> float:
    """Read a finite number."""
    value = frame.get(key)
    if not _is_number(value):
        found = "it is missing" if value is None else f"got {_short(value)}"
        raise InputError(f"{where}: {key!r} should be a number; {found}")
    return float(value)


def _pose(rows: Any, key: str, where: str) -> torch.Tensor:
    """Read a rigid camera-to-world matrix, flat or nested, with or without its last row."""
    flat = rows if isinstance(rows, list) else []
    if all(isinstance(row, list) for row in flat):
        flat = [value for row in flat for value in row]
    if len(flat) not in (12, 16) or not all(_is_number(value) for value in flat):
        raise InputError(f"{where}: {key!r} should be 4x4 finite numbers, got {_short(rows)}")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.tensor([float(value) for value in flat[:12]], dtype=torch.float64).view(3, 4)
    _check_rotation(pose, where)
    return pose.float()


def _check_rotation(pose: torch.Tensor, where: str) -> None:
    """Refuse poses whose left part is scaled, sheared or mirrored."""
    rotation = pose[:3, :3]
    error = (rotation @ rotation.mT - torch.eye(3, dtype=pose.dtype)).abs().max().item()
    if error > _ROTATION_TOLERANCE or torch.linalg.det(rotation) < 0:
        raise InputError(
            f"{where}: the pose is not rigid; its left 3x3 part should be a rotation "
            f"(it is off by {error:.3g}, determinant {torch.linalg.det(rotation).item():.3g})"
        )


def _cameras_from_re10k_text(text: str, name: str, image_size_px: tuple[int, int] | None) -> Camera:
    """Read a RealEstate10K file: a line with the address of a video, then a line a frame.

    A frame is: time stamp, fx fy cx cy in units of width and height, two zeros, and the 12 numbers
    of the world-to-camera pose. Pixels of the video are square, which tells its aspect ratio.
    """
    lines = [(index, line.split()) for index, line in enumerate(text.splitlines(), 1)]
    lines = [(index, words) for index, words in lines if words]
    if len(lines[0][1]) == 1 and not _is_number_word(lines[0][1][0]):
        lines = lines[1:]
    if not lines:
        raise InputError(f"{name} has no frames")
    rows = []
    for index, words in lines:
        if len(words) != 19 or not all(_is_number_word(word) for word in words):
            raise InputError(
                f"{name}, line {index}: a RealEstate10K frame is 19 numbers, got "
                f"{_short(' '.join(words))} ({len(words)} words)"
            )
        rows.append([float(word) for word in words])
        if min(rows[-1][1:3]) <= 0:
            raise InputError(f"{name}, line {index}: the focal lengths should be above 0")
    table = torch.tensor(rows, dtype=torch.float64)
    world_to_camera = table[:, 7:].view(-1, 3, 4)
    for (index, _), pose in zip(lines, world_to_camera, strict=True):
        _check_rotation(pose, f"{name}, line {index}")
    if image_size_px is None:
        raise InputError(f"{name} is a RealEstate10K file, which has no image size; give one")
    camera = camera_from_re10k(table[:, 1:5], world_to_camera, image_size_px)
    intrinsics_px = camera.intrinsics_px
    stretch = intrinsics_px[:, 1, 1] / intrinsics_px[:, 0, 0]
    middle_px = 0.5 * image_size_px[1]
    intrinsics_px[:, 0, 2] = middle_px + stretch * (intrinsics_px[:, 0, 2] - middle_px)
    intrinsics_px[:, 0, 0] = intrinsics_px[:, 1, 1]
    return Camera(camera.camera_to_world.float(), intrinsics_px.float(), image_size_px)


def _at_size(camera: Camera, image_size_px: tuple[int, int]) -> Camera:
    """Scale a camera to a height and cut or widen its image at both sides to a width."""
    height_px, width_px = image_size_px
    scale = height_px / camera.image_size_px[0]
    intrinsics_px = camera.intrinsics_px.clone()
    intrinsics_px[..., :2, :] *= scale
    intrinsics_px[..., 0, 2] += 0.5 * (width_px - scale * camera.image_size_px[1])
    return Camera(camera.camera_to_world, intrinsics_px, image_size_px)


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_number_word(word: str) -> bool:
    """Tell whether a word is a finite number."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _short(value: Any) -> str:
    """Return a value as text that fits into an error line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
