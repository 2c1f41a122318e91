"""Any data set to shards: many workers, resumable, and never stopped by one bad scene.

    OUT/manifest.json  train-000000.tar ...     what training reads
    OUT/convert.json                            the settings; the same command again goes on
    OUT/report.json                             what was left out, and why
    OUT/.scenes/                                finished scenes that wait for their shard

Each scene is brought to the camera of the method (`framing`), its depth is resampled, aligned and
measured, and it is written as a small tar aside. The main process appends finished scenes to shards
in the order of the source, so that shards do not depend on which worker was faster.
"""

import hashlib
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_aside, write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.workers import do_pieces
from zeronvs.datasets.framed_scene import Background, ShownFrame, choose_frames, show_frames
from zeronvs.datasets.sources.scene_source import SceneSource, SceneViews
from zeronvs.datasets.triangulate import triangulate
from zeronvs.shards.images import ImageFormat, centre_square
from zeronvs.shards.writer import (
    Manifest,
    ShardFrame,
    ShardScene,
    ShardWriter,
    encode_frame,
    read_shard,
    write_scene,
)

DepthEstimate = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b h w"]]
"""Relative depth of square images in [0, 1]."""
FEWEST_FRAMES = 2
SETTINGS_FILE, REPORT_FILE, PARTS_FOLDER = "convert.json", "report.json", ".scenes"


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """How scenes are written."""

    image_format: ImageFormat = "jpg"
    """png is exact and what the published reader needs; jpg is small and quick to read."""
    quality: int = 95
    """Of jpg and webp."""
    square: bool = True
    """Keep the centre square, which is all that training reads; else the whole picture."""
    max_frames: int | None = None
    """At most so many frames a scene, evenly spread."""
    background: Background = "keep"
    """White lays masked objects on white and forgets the depth around them."""
    triangulate: bool = True
    """Where a scene has no depth at all, triangulate corners with the given cameras."""
    split: str | None = None
    """Only this split of the source."""
    limit: int | None = None
    """Only the first so many scenes."""


@dataclass(frozen=True)
class SceneReport:
    """What became of one scene."""

    scene_id: str
    frames: int = 0
    notes: tuple[str, ...] = ()
    error: str | None = None
    """Why it was left out."""
    seconds: float = 0.0


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did."""

    manifest: Manifest
    scenes: tuple[SceneReport, ...] = field(default=())
    """Of this run; scenes that were done before are not among them."""

    @property
    def failed(self) -> tuple[SceneReport, ...]:
        """Scenes that were left out."""
        return tuple(scene for scene in self.scenes if scene.error is not None)


def convert(
    open_source: Callable[[], SceneSource],
    out: Path,
    config: ConvertConfig,
    *,
    description: str,
    licence: str | None = None,
    load_depth: Callable[[], DepthEstimate] | None = None,
    depth_name: str = "none",
    workers: int = 1,
    max_shard_bytes: int = 512 * 2**20,
    progress: Progress = silent,
) -> ConvertReport:
    """Write the scenes of a source as shards; run again after a stop, it goes on.

    Args:
        open_source: Opens the source; called in every process, so it can be pickled.
        out: Folder of the shards, new or of the same conversion.
        config: How.
        description: Where the scenes come from, for people and for the check that a stopped
            conversion goes on with the same source.
        licence: Of the pictures.
        load_depth: Loads a network for relative depth, which fills sparse depth for the viewer
            scale; can be pickled. None: scales of what is known.
        depth_name: Its name, for the settings.
        workers: Processes.
        max_shard_bytes: A shard is full when it is at least so large.
        progress: Is told of every scene.

    Raises:
        InputError: The source cannot be opened, or `out` holds something else.
    """
    settings = {"source": description, "depth": depth_name, **asdict(config)}
    _claim(out, {name: value for name, value in settings.items() if name != "limit"})
    source = open_source()
    scene_ids = source.scene_ids(config.split)[: config.limit]
    parts = out / PARTS_FOLDER
    split = config.split or "train"
    reports: list[SceneReport] = []
    with ShardWriter(
        out, split, split=split, source=description, licence=licence, max_bytes=max_shard_bytes
    ) as writer:
        done = writer.done_scene_ids
        left = [scene_id for scene_id in scene_ids if scene_id not in done]
        packer = _Packer(writer, parts, left)
        todo = [scene_id for scene_id in left if not packer.part(scene_id).is_file()]
        tools = partial(_tools, open_source, parts, config, load_depth)
        step = len(scene_ids) - len(todo)
        progress(ProgressEvent("convert", step, len(scene_ids)))
        packer.pack()
        for outcome in do_pieces(tools, todo, workers=workers):
            report = outcome.answer or SceneReport(outcome.piece, error=outcome.error)
            reports.append(report)
            packer.settled(report)
            step += 1
            values = {"failed": float(sum(r.error is not None for r in reports))}
            progress(ProgressEvent("convert", step, len(scene_ids), values))
        writer.finish_shard()
        packer.drop_written()
    _write_report(out, reports, writer.manifest)
    return ConvertReport(writer.manifest, tuple(reports))


def convert_scene(
    scene: SceneViews, config: ConvertConfig, estimate_depth: DepthEstimate | None = None
) -> tuple[
    ShardScene,
    tuple[str, ...],  # what was left out or made, a sentence each
]:
    """Bring one scene to the published layout.

    Raises:
        InputError: Fewer than two frames can be used.
    """
    notes = list(scene.notes)
    chosen = choose_frames(scene, notes, max_frames=config.max_frames)
    if len(chosen) < FEWEST_FRAMES:
        said = f"; {notes[0]}" if notes else ""
        raise InputError(f"only {len(chosen)} frames can be used, which makes no pair{said}")
    shown = list(show_frames(chosen, notes, square=config.square, background=config.background))
    if config.triangulate and not any((frame.depth_z > 0).any() for frame in shown):
        shown = _with_triangulated(shown, notes)
    frames = [
        _encoded(frame, f"frame{number:06d}", config, estimate_depth)
        for number, frame in enumerate(shown, 1)
    ]
    if len(frames) < FEWEST_FRAMES:
        raise InputError(f"only {len(frames)} frames can be read; {notes[-1] if notes else ''}")
    return ShardScene(scene.scene_id, tuple(frames)), tuple(notes)


def _with_triangulated(shown: list[ShownFrame], notes: list[str]) -> list[ShownFrame]:
    depths = triangulate(
        [frame.image for frame in shown], [frame.framing.target for frame in shown]
    )
    known = float(np.median([(depth > 0).sum() for depth in depths]))
    notes.append(f"no depth in the source: corners were triangulated, {known:.0f} points a frame")
    return [
        ShownFrame(frame.name, frame.framing, frame.image, depth, frame.disparity)
        for frame, depth in zip(shown, depths, strict=True)
    ]


def _encoded(
    frame: ShownFrame, name: str, config: ConvertConfig, estimate_depth: DepthEstimate | None
) -> ShardFrame:
    disparity = frame.disparity
    if disparity is not None:
        disparity = centre_square(disparity)
    elif estimate_depth is not None and 0 < (frame.depth_z > 0).mean() < 1:
        square = torch.from_numpy(centre_square(frame.image).copy()).permute(2, 0, 1)[None] / 255
        disparity = (1 / estimate_depth(square)[0].clamp_min(1e-6)).numpy()
    return encode_frame(
        frame.image,
        frame.framing.target,
        frame.depth_z,
        name=name,
        image_format=config.image_format,
        quality=config.quality,
        disparity=disparity,
        square=config.square,
        extra={"source_frame": frame.name[-200:]},
    )


def _tools(
    open_source: Callable[[], SceneSource],
    parts: Path,
    config: ConvertConfig,
    load_depth: Callable[[], DepthEstimate] | None,
) -> Callable[[str], SceneReport]:
    """Return what a worker does to a scene."""
    source = open_source()
    estimate_depth = None if load_depth is None else load_depth()

    def do(scene_id: str) -> SceneReport:
        began = time.monotonic()
        scene, notes = convert_scene(source.load(scene_id, config.split), config, estimate_depth)
        with write_aside(_part(parts, scene_id)) as aside, tarfile.open(aside, "w") as tar:
            write_scene(tar, scene)
        return SceneReport(scene_id, len(scene), notes, seconds=time.monotonic() - began)

    return do


class _Packer:
    """Appends finished scenes to shards in the order of the source."""

    def __init__(self, writer: ShardWriter, parts: Path, scene_ids: list[str]) -> None:
        self._writer, self._parts = writer, parts
        self._order, self._next = scene_ids, 0
        self._failed: set[str] = set()
        self._written: list[Path] = []

    def part(self, scene_id: str) -> Path:
        """Return where a finished scene waits."""
        return _part(self._parts, scene_id)

    def settled(self, report: SceneReport) -> None:
        """Take note of a scene that is done or cannot be done."""
        if report.error is not None:
            self._failed.add(report.scene_id)
        self.pack()

    def pack(self) -> None:
        """Append what is next in order and there."""
        while self._next < len(self._order):
            scene_id = self._order[self._next]
            path = self.part(scene_id)
            if scene_id not in self._failed:
                if not path.is_file():
                    return
                shards = len(self._writer.manifest.shards)
                for scene in read_shard(path):
                    self._writer.add(scene)
                self._written.append(path)
                if len(self._writer.manifest.shards) > shards:
                    self.drop_written()
            self._next += 1

    def drop_written(self) -> None:
        """Remove the parts that lie in finished shards."""
        for path in self._written:
            path.unlink(missing_ok=True)
        self._written.clear()
        if self._parts.is_dir() and not any(self._parts.iterdir()):
            self._parts.rmdir()


def _part(parts: Path, scene_id: str) -> Path:
    stem = hashlib.sha256(scene_id.encode()).hexdigest()[:24]
    return parts / f"{stem}.tar"


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Take a new folder, or one of the same conversion; remove what a kill left half-written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; -o names a folder")
    stored = out / SETTINGS_FILE
    if stored.is_file():
        before = read_json(stored)
        other = {k: before.get(k) for k in settings if before.get(k) != settings[k]}
        if other:
            name, value = next(iter(other.items()))
            raise InputError(
                f"{out} was begun with {name} {value!r}, not {settings[name]!r}; give the same "
                "settings to go on, or another folder with -o"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} holds other files; give a new folder with -o")
    for half in (*out.glob(".*.part.*"), *(out / PARTS_FOLDER).glob(".*.part.*")):
        half.unlink(missing_ok=True)
    write_json(stored, settings)


def _write_report(out: Path, reports: list[SceneReport], manifest: Manifest) -> None:
    path = out / REPORT_FILE
    before = read_json(path)["scenes"] if path.is_file() else []
    fresh = {report.scene_id for report in reports}
    kept = [entry for entry in before if entry["scene_id"] not in fresh]
    scenes = sorted(kept + [asdict(report) for report in reports], key=lambda e: e["scene_id"])
    failed = [entry["scene_id"] for entry in scenes if entry["error"]]
    known = sum(len(shard.scenes) for shard in manifest.shards)
    write_json(path, {"scenes_written": known, "failed": failed, "scenes": scenes})
