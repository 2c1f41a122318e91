"""The `.torch` chunks in which pixelSplat's authors publish RealEstate10K and ACID.

    ROOT/[train|test/]000000.torch   a list of dicts, one a clip:
        url, timestamps [n], cameras [n, 18] (fx fy cx cy 0 0 and the 3x4 world-to-camera pose),
        key, images: a list of n uint8 tensors, each the bytes of a JPEG
    ROOT/[train|test/]index.json     {key: chunk file}

Chunks are pickles: they are read by torch's restricted reader, which builds tensors and plain
containers and runs nothing, and they are mapped, so that only the clip that is read is in memory.
"""

import io
import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json
from zeronvs.datasets.sources.scene_source import (
    FramePixels,
    SceneFrame,
    SceneViews,
    check_split,
    clean_name,
    inside,
    read_image,
)
from zeronvs.formats.re10k import unit_cameras

SPLITS = ("train", "test", "val")
NUMBERS = 18
MAX_CHUNK_BYTES = 16 * 2**30
MAX_PICKLE_BYTES = 256 * 2**20
MAX_FRAMES = 100_000
MAX_IMAGE_BYTES = 64 * 2**20


class PixelSplatSource:
    """Clips in chunks."""

    def __init__(self, root: Path) -> None:
        """Find the chunks.

        Raises:
            InputError: There is none.
        """
        if not root.is_dir():
            raise InputError(f"{root}: there is no such folder")
        self._root = root.resolve()
        folders = {name: self._root / name for name in SPLITS if (self._root / name).is_dir()}
        self._folders = {k: v for k, v in folders.items() if any(v.glob("*.torch"))}
        if not self._folders and any(self._root.glob("*.torch")):
            self._folders = {"": self._root}
        if not self._folders:
            raise InputError(f"{root}: there are no .torch chunks in it, nor in train/ or test/")
        self._chunks: dict[str, dict[str, tuple[Path, str]]] = {}

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all clips, or of those of a split."""
        check_split(split, tuple(name for name in self._folders if name))
        chosen = [split] if split is not None else list(self._folders)
        return [scene_id for name in chosen for scene_id in self._clips(name)]

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one clip."""
        check_split(split, tuple(name for name in self._folders if name))
        for name in self._folders if split is None else [split]:
            if scene_id in self._clips(name):
                path, key = self._clips(name)[scene_id]
                break
        else:
            raise InputError(f"there is no clip {scene_id!r}")
        for clip in read_chunk(path):
            if str(clip.get("key")) == key:
                return _views(scene_id, clip)
        raise InputError(f"{path.name} does not hold {key!r}, which index.json assigns to it")

    def _clips(self, split: str) -> dict[str, tuple[Path, str]]:
        if split not in self._chunks:
            folder = self._folders[split]
            index: dict[str, Path] = {}
            if (folder / "index.json").is_file():
                content = read_json(folder / "index.json")
                if not isinstance(content, dict):
                    raise InputError(f"{folder / 'index.json'} should be an object of chunks")
                index = {key: inside(folder, str(name)) for key, name in content.items()}
            else:
                for path in sorted(folder.glob("*.torch")):
                    index |= {str(clip.get("key")): path for clip in read_chunk(path)}
            category = clean_name(self._root.name)
            self._chunks[split] = {
                f"{category}/{clean_name(key)}": (path, key) for key, path in index.items()
            }
        return self._chunks[split]


def is_pixelsplat(folder: Path) -> bool:
    """Return whether a folder contains chunks."""
    return any(any(part.glob("*.torch")) for part in (folder, *(folder / s for s in SPLITS)))


def read_chunk(path: Path) -> list[dict[str, Any]]:
    """Return the clips of a chunk; their tensors are mapped, not read.

    Raises:
        InputError: It is no chunk, holds anything but plain data and tensors, or is too large.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        if path.stat().st_size > MAX_CHUNK_BYTES:
            raise InputError(f"{path} is larger than {MAX_CHUNK_BYTES >> 30} GiB")
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise InputError(f"{path.name} is compressed, which torch never writes")
                if member.filename.endswith(".pkl") and member.file_size > MAX_PICKLE_BYTES:
                    raise InputError(f"{path.name} has a pickle of {member.file_size} bytes")
        clips = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a chunk of torch's zip format: {_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than plain data and tensors, so it is not read: {_line(error)}"
        ) from error
    if not isinstance(clips, list) or not all(isinstance(clip, dict) for clip in clips):
        raise InputError(f"{path} is not a list of clips")
    return clips


def _views(scene_id: str, clip: dict[str, Any]) -> SceneViews:
    table, images = clip.get("cameras"), clip.get("images")
    good = isinstance(table, torch.Tensor) and table.ndim == 2 and table.shape[1] == NUMBERS
    if not good or not isinstance(images, list):
        raise InputError(f"{scene_id}: expected cameras [n, {NUMBERS}] and a list of images")
    assert isinstance(table, torch.Tensor)
    if len(table) > MAX_FRAMES:
        raise InputError(f"{scene_id}: a clip of {len(table)} frames; at most {MAX_FRAMES}")
    if len(images) != len(table):
        raise InputError(f"{scene_id}: {len(table)} cameras, but {len(images)} images")
    stamps = clip.get("timestamps")
    known = isinstance(stamps, torch.Tensor) and stamps.numel() == len(table)
    names = [str(int(s)) for s in stamps.flatten()] if known else None  # pyright: ignore
    cameras = unit_cameras(table.double())
    frames = []
    for index, image in enumerate(images):
        name = names[index] if names else f"{index:06d}"
        frames.append(
            SceneFrame(name, cameras[index], partial(_read, image, name), size_is_nominal=True)
        )
    return SceneViews(scene_id, tuple(frames))


def _read(image: Any, name: str) -> FramePixels:
    if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8 or image.ndim != 1:
        raise InputError(f"{name}: an image should be a line of bytes")
    # A stored tensor may repeat a few bytes without end (stride 0).
    if image.numel() > MAX_IMAGE_BYTES:
        raise InputError(f"{name}: an image has {image.numel()} bytes; at most {MAX_IMAGE_BYTES}")
    return FramePixels(read_image(io.BytesIO(image.numpy().tobytes()), name, least_px=512))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
