"""Conversion of any data set to shards: parallel, resumable, and not stopped by one bad scene.

    OUT/manifest.json  train-000000.tar ...     the training data
    OUT/convert.json                            the settings; the same command again resumes
    OUT/report.json                             what was left out, and why
    OUT/.scenes/                                finished scenes and their reports, until the end

Each scene is resampled to the camera of the method (`framing`), depth included; its statistics are
computed, and it is written as a small tar of its own. The main process appends finished
scenes to shards in the order of the source, so that shards do not depend on the number of workers.
"""

import hashlib
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, sweep_temporary, write_aside, write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.resumable import LOCK_FILE, ResumableRun
from zeronvs._core.workers import run_tasks
from zeronvs.datasets.framing import (
    Background,
    DepthEstimate,
    LoadedFrame,
    choose_frames,
    load_frames,
)
from zeronvs.datasets.sources.scene_source import SceneSource, SceneViews
from zeronvs.datasets.triangulate import triangulate
from zeronvs.formats.images import from_bytes
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

FEWEST_FRAMES = 2
SETTINGS_FILE, REPORT_FILE, PARTS_FOLDER = "convert.json", "report.json", ".scenes"


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Settings of a conversion."""

    image_format: ImageFormat = "jpg"
    """png is exact and the one that the published reader reads; jpg is small and fast."""
    quality: int = 95
    """JPEG and WebP quality, 1 to 100."""
    square: bool = True
    """Keep the centre square, which is all that training reads; else the whole image."""
    max_frames: int | None = None
    """Maximum number of frames per scene, sampled evenly; None: all."""
    background: Background = "keep"
    """White puts masked objects on white and drops the depth around them."""
    triangulate: bool = True
    """Whether scenes without depth get depth of corners triangulated with the given cameras."""
    split: str | None = None
    """Only this split of the source."""
    limit: int | None = None
    """Only the first so many scenes."""


@dataclass(frozen=True)
class SceneReport:
    """Result of one scene."""

    scene_id: str
    frames: int = 0
    notes: tuple[str, ...] = ()
    error: str | None = None
    """Why it was left out."""
    seconds: float = 0.0


@dataclass(frozen=True)
class ConvertReport:
    """Result of a conversion."""

    manifest: Manifest
    scenes: tuple[SceneReport, ...] = field(default=())
    """Scenes of this run, without those of an earlier, interrupted one."""

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
    """Write the scenes of a source as shards; an interrupted conversion is resumed.

    Args:
        open_source: Opens the source; called in every process, so it must be picklable.
        out: Folder of the shards, new or of the same conversion.
        description: Origin of the scenes, for people and for the check that a resumed conversion
            has the same source.
        load_depth: Loads a network for relative depth, which fills sparse depth for the viewer
            scale; picklable. None: scales from the known pixels alone.
        depth_name: Name of that network, for the settings.

    Raises:
        InputError: The source cannot be opened, or `out` holds something else.
    """
    settings = {"source": description, "depth": depth_name, **asdict(config)}
    _check_folder(out)
    with ResumableRun(out, settings_file=SETTINGS_FILE) as run:
        run.claim({name: value for name, value in settings.items() if name != "limit"})
        sweep_temporary(out)
        sweep_temporary(out / PARTS_FOLDER)
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
            make_worker = partial(_make_worker, open_source, parts, config, load_depth)
            step = len(scene_ids) - len(todo)
            progress(ProgressEvent("convert", step, len(scene_ids)))
            packer.pack()
            for result in run_tasks(make_worker, todo, workers=workers):
                report = result.value or SceneReport(result.task, error=result.error)
                reports.append(report)
                packer.add(report)
                step += 1
                values = {"failed": float(sum(r.error is not None for r in reports))}
                progress(ProgressEvent("convert", step, len(scene_ids), values))
            writer.finish_shard()
            packer.drop_written()
        _write_report(out, writer.manifest)
        return ConvertReport(writer.manifest, tuple(reports))


def convert_scene(
    scene: SceneViews, config: ConvertConfig, estimate_depth: DepthEstimate | None = None
) -> tuple[
    ShardScene,
    tuple[str, ...],  # notes on what was left out or triangulated, a sentence each
]:
    """Convert one scene to the published layout.

    Raises:
        InputError: Fewer than two frames can be used.
    """
    notes = list(scene.notes)
    chosen, half_slope = choose_frames(scene, notes, max_frames=config.max_frames)
    if len(chosen) < FEWEST_FRAMES:
        reason = f"; {notes[0]}" if notes else ""
        raise InputError(f"only {len(chosen)} frames can be used, which makes no pair{reason}")
    loaded = list(
        load_frames(chosen, half_slope, notes, square=config.square, background=config.background)
    )
    if config.triangulate and not any((frame.depth_z > 0).any() for frame in loaded):
        loaded = _with_triangulated(loaded, notes)
    frames = [
        _encoded(frame, f"frame{number:06d}", config, estimate_depth)
        for number, frame in enumerate(loaded, 1)
    ]
    if len(frames) < FEWEST_FRAMES:
        raise InputError(f"only {len(frames)} frames can be read; {notes[-1] if notes else ''}")
    return ShardScene(scene.scene_id, tuple(frames)), tuple(notes)


def _with_triangulated(frames: list[LoadedFrame], notes: list[str]) -> list[LoadedFrame]:
    depths = triangulate(
        lambda index: frames[index].image, [frame.framing.target for frame in frames]
    )
    known = float(np.median([(depth > 0).sum() for depth in depths]))
    notes.append(f"no depth in the source: corners were triangulated, {known:.0f} points a frame")
    return [replace(frame, depth_z=depth) for frame, depth in zip(frames, depths, strict=True)]


def _encoded(
    frame: LoadedFrame, name: str, config: ConvertConfig, estimate_depth: DepthEstimate | None
) -> ShardFrame:
    disparity = frame.disparity
    if disparity is not None:
        disparity = centre_square(disparity)
    elif estimate_depth is not None and 0 < (frame.depth_z > 0).mean() < 1:
        square = from_bytes(centre_square(frame.image))
        disparity = (1 / estimate_depth(square[None])[0].clamp_min(1e-6)).numpy()
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


def _make_worker(
    open_source: Callable[[], SceneSource],
    parts: Path,
    config: ConvertConfig,
    load_depth: Callable[[], DepthEstimate] | None,
) -> Callable[[str], SceneReport]:
    """Return the function that converts one scene; it is called in each process."""
    source = open_source()
    estimate_depth = None if load_depth is None else load_depth()

    def convert_one(scene_id: str) -> SceneReport:
        start = time.monotonic()
        scene, notes = convert_scene(source.load(scene_id, config.split), config, estimate_depth)
        report = SceneReport(scene_id, len(scene), notes, seconds=time.monotonic() - start)
        # The report goes first: a scene whose tar is there is not converted again after a kill.
        _store_report(parts, report)
        with write_aside(_part(parts, scene_id)) as aside, tarfile.open(aside, "w") as tar:
            write_scene(tar, scene)
        return report

    return convert_one


class _Packer:
    """Appends finished scenes to shards in the order of the source."""

    def __init__(self, writer: ShardWriter, parts: Path, scene_ids: list[str]) -> None:
        self._writer, self._parts = writer, parts
        self._order, self._next = scene_ids, 0
        self._failed: set[str] = set()
        self._written: list[Path] = []

    def part(self, scene_id: str) -> Path:
        """Return the tar of a finished scene."""
        return _part(self._parts, scene_id)

    def add(self, report: SceneReport) -> None:
        """Register a scene that is converted or has failed."""
        if report.error is not None:
            self._failed.add(report.scene_id)
            _store_report(self._parts, report)
        self.pack()

    def pack(self) -> None:
        """Append the next scenes in order, as far as they are finished."""
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
        """Remove the parts that are in finished shards."""
        for path in self._written:
            path.unlink(missing_ok=True)
        self._written.clear()


def _part(parts: Path, scene_id: str) -> Path:
    stem = hashlib.sha256(scene_id.encode()).hexdigest()[:24]
    return parts / f"{stem}.tar"


def _store_report(parts: Path, report: SceneReport) -> None:
    """Store the report of a scene until the end, so that a kill does not lose it."""
    write_json(_part(parts, report.scene_id).with_suffix(".json"), asdict(report))


def _check_folder(out: Path) -> None:
    """Refuse a folder that is not of a conversion.

    Raises:
        InputError: It holds other files.
    """
    if out.is_dir() and not (out / SETTINGS_FILE).exists():
        if any(path.name != LOCK_FILE for path in out.iterdir()):
            raise InputError(f"{out} holds other files; give a new folder")


def _write_report(out: Path, manifest: Manifest) -> None:
    """Merge the reports of all scenes, including those of interrupted runs."""
    path, parts = out / REPORT_FILE, out / PARTS_FOLDER
    scenes: dict[str, dict[str, Any]] = {}
    stored = sorted(parts.glob("*.json"))
    for source in (path, *stored):
        try:
            content = read_json(source)
            entries = content["scenes"] if source == path else [content]
            scenes |= {str(entry["scene_id"]): entry for entry in entries}
        except (InputError, KeyError, TypeError):
            continue  # missing, or damaged by hand: the shards do not depend on it
    written = manifest.scene_ids
    kept = [scenes[name] for name in sorted(scenes) if scenes[name].get("error") or name in written]
    failed = [entry["scene_id"] for entry in kept if entry.get("error")]
    write_json(path, {"scenes_written": len(written), "failed": failed, "scenes": kept})
    for source in stored:
        source.unlink(missing_ok=True)
    if parts.is_dir() and not any(parts.iterdir()):
        parts.rmdir()
