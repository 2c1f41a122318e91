"""COLMAP's sparse models, text and binary: cameras, images, points3D. Read and written."""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.files import read_text, write_bytes
from zeronvs.cameras.lens import Lens

MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
"""COLMAP's camera models: number, name, how many parameters."""
MAX_BYTES = 8 * 2**30
MAX_SIDE_PX = 65_536
MAX_ERROR_PX = 2.0
"""Points with a larger mean reprojection error are not used."""
NO_POINT = 2**64 - 1


@dataclass(frozen=True)
class ColmapCamera:
    """One camera of a model; several images may share it."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]

    def intrinsics(self) -> tuple[float, float, float, float]:
        """Return fx, fy, cx, cy in pixels."""
        if self.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL") or "RADIAL_F" in self.model:
            focal, centre_x, centre_y = self.parameters[:3]
            return focal, focal, centre_x, centre_y
        fx, fy, centre_x, centre_y = self.parameters[:4]
        return fx, fy, centre_x, centre_y

    def lens(self) -> Lens:
        """Return the distortion.

        Raises:
            InputError: The model is one that is not read.
        """
        p = self.parameters
        match self.model:
            case "SIMPLE_PINHOLE" | "PINHOLE":
                return Lens()
            case "SIMPLE_RADIAL" | "RADIAL":
                return Lens(radial=p[3:])
            case "OPENCV":
                return Lens(radial=p[4:6], tangential=(p[6], p[7]))
            case "FULL_OPENCV":
                radial = (p[4], p[5], p[8])
                return Lens(radial=radial, tangential=(p[6], p[7]), radial_divisor=p[9:12])
            case "OPENCV_FISHEYE":
                return Lens(radial=p[4:], fisheye=True)
            case "SIMPLE_RADIAL_FISHEYE" | "RADIAL_FISHEYE":
                return Lens(radial=p[3:], fisheye=True)
        raise InputError(
            f"cameras of the model {self.model} are not read; run `colmap image_undistorter` first"
        )


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One posed image."""

    name: str
    camera_id: int
    qvec: tuple[float, ...]
    tvec: tuple[float, ...]
    point_ids: Int[ndarray, " n"]
    """Points that were observed in it."""


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """One sparse model."""

    cameras: dict[int, ColmapCamera]
    images: tuple[ColmapImage, ...]
    point_ids: Int[ndarray, " p"]
    """Sorted."""
    positions: Float[ndarray, "p 3"]
    errors_px: Float[ndarray, " p"]
    """Mean reprojection error."""

    def points_of(self, image: ColmapImage) -> Float[ndarray, "n 3"]:
        """Return the points observed in an image, with errors up to `MAX_ERROR_PX`."""
        if len(self.point_ids) == 0 or len(image.point_ids) == 0:
            return np.zeros((0, 3))
        row = np.searchsorted(self.point_ids, image.point_ids)
        row = np.minimum(row, len(self.point_ids) - 1)
        row = row[self.point_ids[row] == image.point_ids]
        return self.positions[row[self.errors_px[row] <= MAX_ERROR_PX]]


def model_files(folder: Path) -> str | None:
    """Return the file ending of the model in a folder: "bin", "txt" or None."""
    for kind in ("bin", "txt"):
        if all((folder / f"{name}.{kind}").is_file() for name in ("cameras", "images")):
            return kind
    return None


def read_model(folder: Path) -> ColmapModel:
    """Read the model in a folder; binary files win where both kinds are there.

    Raises:
        InputError: There is none, or a file is damaged.
    """
    kind = model_files(folder)
    if kind is None:
        raise InputError(f"{folder} has no cameras.bin and images.bin, nor their text files")
    paths = {name: folder / f"{name}.{kind}" for name in ("cameras", "images", "points3D")}
    for path in paths.values():
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES >> 30} GiB")
    with _damage(paths["cameras"]):
        cameras = _cameras_bin(paths) if kind == "bin" else _cameras_txt(paths)
        _check_sizes(cameras)
    with _damage(paths["images"]):
        images = _images_bin(paths) if kind == "bin" else _images_txt(paths)
    points = ([], [], [])
    with _damage(paths["points3D"]):
        if paths["points3D"].is_file():
            points = _points_bin(paths) if kind == "bin" else _points_txt(paths)
        point_ids = np.array(points[0], dtype=np.int64)
    order = np.argsort(point_ids)
    positions = np.array(points[1], dtype=np.float64).reshape(-1, 3)
    errors_px = np.array(points[2], dtype=np.float64)
    return ColmapModel(cameras, tuple(images), point_ids[order], positions[order], errors_px[order])


def write_model(
    folder: Path,
    cameras: Mapping[int, ColmapCamera],
    images: Sequence[ColmapImage],
    positions: Float[ndarray, "p 3"],
    colors: UInt8[ndarray, "p 3"],
) -> None:
    """Write a model both as text and as binary files, each whole or not at all.

    The points belong to no image: they are where a program may start, not what was observed.

    Args:
        folder: Where cameras, images and points3D are written.
        cameras: By their numbers.
        images: Numbered from 1 in this order; their `point_ids` are not written.
        positions: World coordinates.
        colors: sRGB of the points.
    """
    numbers = {name: number for number, (name, _) in MODELS.items()}
    binary = {
        "cameras": [struct.pack("<Q", len(cameras))],
        "images": [struct.pack("<Q", len(images))],
        "points3D": [struct.pack("<Q", len(positions))],
    }
    text: dict[str, list[str]] = {name: [] for name in binary}
    for index, camera in cameras.items():
        model, size, numbers_px = camera.model, (camera.width, camera.height), camera.parameters
        layout = f"<IiQQ{len(numbers_px)}d"
        binary["cameras"].append(struct.pack(layout, index, numbers[model], *size, *numbers_px))
        text["cameras"].append(_line(index, model, *size, *numbers_px))
    for index, image in enumerate(images, 1):
        pose = (*image.qvec, *image.tvec)
        row = struct.pack("<I7dI", index, *pose, image.camera_id)
        binary["images"].append(row + image.name.encode() + b"\0" + bytes(8))
        # The second line of an image lists its features: none.
        text["images"] += [_line(index, *pose, image.camera_id, image.name), ""]
    for index, (place, color) in enumerate(
        zip(positions.tolist(), colors.tolist(), strict=True), 1
    ):
        binary["points3D"].append(struct.pack("<Q3d3BdQ", index, *place, *color, 0.0, 0))
        text["points3D"].append(_line(index, *place, *color, 0.0))
    for name in binary:
        write_bytes(folder / f"{name}.bin", b"".join(binary[name]))
        write_bytes(folder / f"{name}.txt", "".join(f"{line}\n" for line in text[name]).encode())


def _line(*values: str | int | float) -> str:
    return " ".join(str(value) for value in values)


def _damage(path: Path) -> ReadingErrors:
    kinds = (ValueError, IndexError, KeyError, OverflowError, MemoryError, struct.error)
    return ReadingErrors(f"{path} is damaged or cut short", *kinds)


def _check_sizes(cameras: dict[int, ColmapCamera]) -> None:
    """Refuse image sizes that no image has."""
    for camera_id, camera in cameras.items():
        if not (0 < camera.width <= MAX_SIDE_PX and 0 < camera.height <= MAX_SIDE_PX):
            raise InputError(f"camera {camera_id} is {camera.width}x{camera.height} px")


def _take(handle: io.BufferedReader, layout: str) -> tuple:
    size = struct.calcsize("<" + layout)
    content = handle.read(size)
    if len(content) < size:
        raise ValueError("the file ends too early")
    return struct.unpack("<" + layout, content)


def _cameras_bin(paths: dict[str, Path]) -> dict[int, ColmapCamera]:
    cameras = {}
    with paths["cameras"].open("rb") as handle:
        for _ in range(_take(handle, "Q")[0]):
            camera_id, number, width, height = _take(handle, "IiQQ")
            if number not in MODELS:
                raise InputError(f"camera {camera_id} has the unknown model number {number}")
            name, count = MODELS[number]
            cameras[camera_id] = ColmapCamera(name, width, height, _take(handle, f"{count}d"))
    return cameras


def _images_bin(paths: dict[str, Path]) -> list[ColmapImage]:
    images = []
    with paths["images"].open("rb") as handle:
        size = paths["images"].stat().st_size
        for _ in range(_take(handle, "Q")[0]):
            _, *pose = _take(handle, "I7d")
            (camera_id,) = _take(handle, "I")
            name = bytearray()
            while (letter := handle.read(1)) not in (b"\0", b"") and len(name) < 4096:
                name += letter
            (count,) = _take(handle, "Q")
            if count * 24 > size:
                raise ValueError(f"an image claims {count} points")
            rows = handle.read(24 * count)
            if len(rows) < 24 * count:
                raise ValueError("the file ends too early")
            ids = np.frombuffer(rows, dtype=[("uv", "<2f8"), ("id", "<u8")])["id"]
            ids = ids[ids != NO_POINT].astype(np.int64)
            images.append(
                ColmapImage(name.decode("utf-8"), camera_id, tuple(pose[:4]), tuple(pose[4:]), ids)
            )
    return images


def _points_bin(paths: dict[str, Path]) -> tuple[list[int], list[tuple], list[float]]:
    ids, positions, errors = [], [], []
    with paths["points3D"].open("rb") as handle:
        size = paths["points3D"].stat().st_size
        for _ in range(_take(handle, "Q")[0]):
            point_id, x, y, z, _, _, _, error, track = _take(handle, "Q3d3BdQ")
            if track * 8 > size:
                raise ValueError(f"a point claims a track of {track}")
            if len(handle.read(8 * track)) < 8 * track:
                raise ValueError("the file ends too early")
            ids.append(point_id)
            positions.append((x, y, z))
            errors.append(error)
    return ids, positions, errors


def _lines(path: Path) -> list[str]:
    """Return the lines but for comments; empty lines stay, as an image's second line may be."""
    text = read_text(path, max_bytes=MAX_BYTES)
    return [line.strip() for line in text.splitlines() if not line.startswith("#")]


def _cameras_txt(paths: dict[str, Path]) -> dict[int, ColmapCamera]:
    counts = dict(MODELS.values())
    cameras = {}
    for line in filter(None, _lines(paths["cameras"])):
        words = line.split()
        parameters = tuple(float(word) for word in words[4:])
        if len(parameters) != counts.get(words[1], len(parameters)):
            raise ValueError(f"camera {words[0]} should have {counts[words[1]]} parameters")
        size = (int(words[2]), int(words[3]))
        cameras[int(words[0])] = ColmapCamera(words[1], *size, parameters)
    return cameras


def _images_txt(paths: dict[str, Path]) -> list[ColmapImage]:
    lines = _lines(paths["images"])
    while lines and not lines[0]:
        lines.pop(0)
    images = []
    for first, second in zip(lines[0::2], [*lines[1::2], ""], strict=False):
        if not first:
            break
        words = first.split(maxsplit=9)
        numbers = tuple(float(word) for word in words[1:8])
        ids = np.array(second.split()[2::3], dtype=np.int64)  # x y id, x y id, ...
        images.append(ColmapImage(words[9], int(words[8]), numbers[:4], numbers[4:], ids[ids >= 0]))
    return images


def _points_txt(paths: dict[str, Path]) -> tuple[list[int], list[tuple], list[float]]:
    ids, positions, errors = [], [], []
    for line in filter(None, _lines(paths["points3D"])):
        words = line.split()
        ids.append(int(words[0]))
        positions.append(tuple(float(word) for word in words[1:4]))
        errors.append(float(words[7]))
    return ids, positions, errors
