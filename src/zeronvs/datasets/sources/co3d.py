"""Common Objects in 3D (version 2, and 1): `frame_annotations.jgz` and the files that it names.

    ROOT/<category>/frame_annotations.jgz    gzipped JSON list, one object a frame
    ROOT/<category>/set_lists/*.json         {"train": [[sequence, frame number, image path], ...]}
    ROOT/<category>/<sequence>/images, masks, depths, depth_masks

Cameras are PyTorch3D's (`R`, `T`, NDC intrinsics). Depth is a 16-bit PNG whose bits are float16,
times `scale_adjustment`, valid where the depth mask is set.
"""

import gzip
import json
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zeronvs._core.errors import InputError
from zeronvs._core.files import parse_json, read_json, write_aside, write_json
from zeronvs.cameras.conventions import PyTorch3dNdc, camera_from_pytorch3d
from zeronvs.datasets.sources.scene_source import (
    FramePixels,
    SceneFrame,
    SceneViews,
    clean_name,
    inside,
    read_image,
    read_map,
)

NDC_KINDS: dict[str, PyTorch3dNdc] = {
    "ndc_isotropic": "short_side",
    "ndc_norm_image_bounds": "image_bounds",
}
MAX_FRAME_CHARACTERS = 4 * 2**20
MAX_INFLATION = 100
"""Annotations are compressed about ten times; more is a decompression bomb."""
PREFERRED_SET_LISTS = ("set_lists_fewview_dev", "set_lists_fewview_train")


class Co3dSource:
    """Sequences of CO3D; the annotations of a category are read once, frame by frame."""

    def __init__(
        self, root: Path, *, index_dir: Path | None = None, set_list: str | None = None
    ) -> None:
        """Find the categories.

        Args:
            index_dir: Where an index of the annotations is kept (they are one large file for
                thousands of sequences); a temporary folder if not given.
            set_list: Name of the file in `set_lists` that splits are read from.

        Raises:
            InputError: There is no category.
        """
        if (root / "frame_annotations.jgz").is_file():
            self._categories = {clean_name(root.resolve().name): root.resolve()}
        else:
            paths = sorted(root.glob("*/frame_annotations.jgz"))
            self._categories = {clean_name(p.parent.name): p.parent.resolve() for p in paths}
        if not self._categories:
            raise InputError(f"{root}: no frame_annotations.jgz in it or in its folders")
        self._set_list = set_list
        self._index_dir = index_dir or Path(tempfile.mkdtemp(prefix="zeronvs_co3d_"))
        if index_dir is None:
            weakref.finalize(self, shutil.rmtree, self._index_dir, ignore_errors=True)
        self._indices: dict[str, dict[str, list[list[int]]]] = {}
        self._split: dict[str, dict[str, set[str]]] = {}

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return `category/sequence` of all sequences, or of those of a split's set list."""
        names = []
        for category in self._categories:
            index = self._index(category)
            allowed = None if split is None else self._frames_of_split(category, split)
            names += [f"{category}/{s}" for s in index if allowed is None or s in allowed]
        if not names:
            raise InputError(f"no sequence in the split {split!r}")
        return names

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one sequence; with a split, only the frames that its set list names."""
        category, _, sequence = scene_id.partition("/")
        if category not in self._categories or sequence not in self._index(category):
            raise InputError(f"there is no sequence {scene_id!r}")
        root = self._categories[category].parent
        frames, notes = [], []
        allowed = None if split is None else self._frames_of_split(category, split)
        for entry in self._entries(category, sequence):
            path = str(entry.get("image", {}).get("path", ""))
            if allowed is not None and path not in allowed.get(sequence, set()):
                continue
            try:
                frames.append(_frame(root, entry))
            except (InputError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
                notes.append(f"frame {path or '?'} left out: {type(error).__name__} {error}")
        return SceneViews(scene_id, tuple(frames), tuple(notes), len(notes))

    def _frames_of_split(self, category: str, split: str) -> dict[str, set[str]]:
        """Return the image paths of a split by sequence."""
        key = f"{category}/{split}"
        if key not in self._split:
            folder = self._categories[category] / "set_lists"
            files = {path.stem: path for path in sorted(folder.glob("*.json"))}
            if not files:
                raise InputError(f"{category} has no set_lists, so no split {split!r}")
            name = self._set_list or next(
                (name for name in PREFERRED_SET_LISTS if name in files), next(iter(files))
            )
            if name not in files:
                raise InputError(f"{category} has no set list {name!r}; it has: {', '.join(files)}")
            content = read_json(files[name])
            if not isinstance(content, dict) or split not in content:
                known = ", ".join(content) if isinstance(content, dict) else "nothing"
                raise InputError(f"{files[name].name} has no split {split!r}; it has: {known}")
            by_sequence: dict[str, set[str]] = {}
            for entry in content[split]:
                by_sequence.setdefault(clean_name(str(entry[0])), set()).add(str(entry[2]))
            self._split[key] = by_sequence
        return self._split[key]

    def _index(self, category: str) -> dict[str, list[list[int]]]:
        """Return where the frames of each sequence lie in the index file; make it if needed."""
        if category in self._indices:
            return self._indices[category]
        annotations = self._categories[category] / "frame_annotations.jgz"
        state = annotations.stat()
        key = {"bytes": state.st_size, "changed": state.st_mtime_ns}
        positions_path = self._index_dir / f"{category}.json"
        positions: dict[str, list[list[int]]] = {}
        if positions_path.is_file():
            stored = read_json(positions_path)
            if stored["of"] == key:
                positions = stored["positions"]
        if not positions:
            with write_aside(self._index_dir / f"{category}.jsonl") as aside, aside.open("wb") as f:
                for entry in _stream(annotations):
                    line = json.dumps(entry).encode() + b"\n"
                    spans = positions.setdefault(clean_name(str(entry["sequence_name"])), [])
                    if spans and spans[-1][1] == f.tell():
                        spans[-1][1] += len(line)
                    else:
                        spans.append([f.tell(), f.tell() + len(line)])
                    f.write(line)
            write_json(positions_path, {"of": key, "positions": positions})
        self._indices[category] = positions
        return positions

    def _entries(self, category: str, sequence: str) -> list[dict[str, Any]]:
        entries = []
        with (self._index_dir / f"{category}.jsonl").open("rb") as handle:
            for begin, end in self._index(category)[sequence]:
                handle.seek(begin)
                lines = handle.read(end - begin).splitlines()
                entries += [parse_json(line, f"{category}.jsonl") for line in lines]
        return sorted(entries, key=lambda entry: entry.get("frame_number", 0))


def _stream(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a gzipped JSON list without holding more than one of them.

    Raises:
        InputError: The file is damaged, or no list of objects.
    """
    decoder = json.JSONDecoder()
    text, started, ended, total = "", False, False, 0
    allowed = MAX_FRAME_CHARACTERS + MAX_INFLATION * path.stat().st_size
    try:
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            while not ended:
                chunk = handle.read(1 << 20)
                text, total = (text + chunk).lstrip(), total + len(chunk)
                if total > allowed:
                    raise InputError(f"{path} grows more than {MAX_INFLATION} times when unpacked")
                if not started and text:
                    if text[0] != "[":
                        raise InputError(f"{path} is not a JSON list of frames")
                    text, started = text[1:].lstrip(), True
                while text:
                    if text[0] == "]":
                        ended = True
                        break
                    text = text.lstrip(", \r\n\t")
                    try:
                        entry, used = decoder.raw_decode(text)
                    except ValueError:
                        break  # the rest of the entry is in the next chunk
                    except RecursionError as error:
                        raise InputError(f"{path}: a frame is nested too deeply") from error
                    if not isinstance(entry, dict) or "sequence_name" not in entry:
                        raise InputError(f"{path}: a frame is not an object with 'sequence_name'")
                    yield entry
                    text = text[used:].lstrip()
                if not ended and (not chunk or len(text) > MAX_FRAME_CHARACTERS):
                    raise InputError(f"{path} ends in the middle of a frame, or is no JSON")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def _frame(root: Path, entry: dict[str, Any]) -> SceneFrame:
    image, viewpoint = entry["image"], entry["viewpoint"]
    inside(root, image["path"])
    height, width = (int(side) for side in image["size"])
    kind = str(viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")).lower()
    if kind not in NDC_KINDS:
        raise InputError(f"intrinsics_format {kind!r} is not known")

    def numbers(name: str) -> torch.Tensor:
        values = torch.tensor(viewpoint[name], dtype=torch.float64)
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"{name} is not finite")
        return values

    camera = camera_from_pytorch3d(
        numbers("R"),
        numbers("T"),
        numbers("focal_length"),
        numbers("principal_point"),
        (height, width),
        ndc=NDC_KINDS[kind],
    )
    name = str(image["path"])
    return SceneFrame(name, camera.to(dtype=torch.float32), partial(_read, root, entry))


def _read(root: Path, entry: dict[str, Any]) -> FramePixels:
    name = str(entry["image"]["path"])
    size_px = (int(entry["image"]["size"][0]), int(entry["image"]["size"][1]))
    image = read_image(inside(root, name), name, least_px=512, camera_size_px=size_px)
    depth_z = foreground = None
    depth, mask = entry.get("depth") or {}, entry.get("mask") or {}
    if depth.get("path"):
        path = inside(root, depth["path"])
        if path.is_file():
            values = read_map(path, depth["path"])
            bits = np.ascontiguousarray(values.astype(np.uint16)).view(np.float16)
            depth_z = bits.astype(np.float32) * float(depth.get("scale_adjustment") or 1.0)
            depth_z[~np.isfinite(depth_z) | (depth_z < 0)] = 0.0
            if depth.get("mask_path") and inside(root, depth["mask_path"]).is_file():
                valid = read_map(inside(root, depth["mask_path"]), depth["mask_path"]) > 0
                if valid.shape == depth_z.shape:
                    depth_z = np.where(valid, depth_z, 0.0)
    if mask.get("path") and inside(root, mask["path"]).is_file():
        foreground = read_map(inside(root, mask["path"]), mask["path"]).astype(np.float32) / 255
    return FramePixels(image, depth_z, foreground=foreground)
