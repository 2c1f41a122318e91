"""Making a preference study: runs of two methods matched by photograph, their videos in pairs."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, sweep_temporary, write_json
from zeronvs._core.progress import Progress, silent
from zeronvs._core.resumable import differences
from zeronvs.cameras.camera import Camera
from zeronvs.evaluation.study import (
    MAX_PAIRS,
    STUDY_FILE,
    Pair,
    Study,
    check_methods,
    read_study,
    study_json,
)
from zeronvs.exports.export import render_frames
from zeronvs.formats.video import copy_video, video_facts, write_video
from zeronvs.recipes.run_folder import RECORD_FILE, FinishedRun, open_run, path_cameras

Runs = Mapping[str, Path]
"""Run folders by the name of their photograph."""
SAME_FOV_RAD = 0.01
SAME_POSE = 0.02
"""Largest differences between the cameras of two runs of one photograph."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """How the videos of a study are made."""

    path: str | None = None
    """A name of `TRAJECTORIES` or a file with cameras; None: the way all round of the first run."""
    frames: int = 96
    """Frames along a named path."""
    size_px: int = 512
    """Longer side."""
    frames_per_second: int = 24
    video: str | None = None
    """A video that every run folder has; taken instead of rendering."""


@dataclass(frozen=True, kw_only=True)
class BuiltStudy:
    """A study, and what is not in it."""

    study: Study
    left_out: tuple[str, ...]
    """A line for each run without a partner."""


def build_study(
    first: Path,
    second: Path,
    out: Path,
    config: StudyConfig | None = None,
    *,
    methods: tuple[str, str] | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> BuiltStudy:
    """Make a study of all photographs of which there is a run by both methods.

    Both videos of a pair show the same cameras: those of the first run. Videos that are there
    already stay, so that a build that was stopped is resumed.

    Args:
        first: A run folder, or a folder of run folders.
        second: The same by another method.
        out: The study folder; new, empty, or that of the same build.
        config: How the videos are made.
        methods: Names for the report; None: those of the two folders.
        device: Where scenes are rendered.
        progress: Called at every frame.

    Raises:
        InputError: No photograph is in both, two runs of one have different cameras, a run or a
            video cannot be used, or `out` holds something else.
    """
    config = config or StudyConfig()
    methods = methods or (first.resolve().name, second.resolve().name)
    check_methods(methods)
    runs = find_runs(first, config.video), find_runs(second, config.video)
    scenes = _matched(runs, methods)
    for scene in scenes:  # before anything is written
        _check_pair(scene, (runs[0][scene], runs[1][scene]), config.video)
    study = _plan(scenes, out, config, methods)
    sweep_temporary(out / "videos")
    for pair in study.pairs:
        folders = runs[0][pair.scene], runs[1][pair.scene]
        if all(study.video(name).is_file() for name in pair.videos):
            continue
        if config.video is not None:
            for folder, name in zip(folders, pair.videos, strict=True):
                copy_video(folder / config.video, study.video(name))
        else:
            _render(study, pair, folders, config, device, progress)
    left_out = [
        f"{scene}: only in {folder}"
        for folder, own, other in ((first, *runs), (second, runs[1], runs[0]))
        for scene in own
        if scene not in other
    ]
    return BuiltStudy(study=study, left_out=tuple(left_out))


def find_runs(folder: Path, video: str | None = None) -> dict[str, Path]:
    """Return the run folders by the name of their photograph.

    Args:
        folder: A run folder, or a folder of run folders.
        video: Where given, folders with this file count, too; without a run.json, the name of the
            folder is that of the photograph.

    Raises:
        InputError: There is none, or two are of photographs of one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give run folders that `zeronvs scene` made")
    names = (RECORD_FILE,) if video is None else (RECORD_FILE, video)
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    is_run = {path: any((path / name).is_file() for name in names) for path in places}
    found: dict[str, Path] = {}
    for path in [folder] if is_run[folder] else places[1:]:
        if not is_run[path]:
            continue
        name = _photograph(path)
        if name in found:
            raise InputError(
                f"{found[name]} and {path} are both of a photograph named {name!r}; give folders "
                "with one run of each"
            )
        found[name] = path
    if not found:
        raise InputError(f"{folder} has no run folder; give what `zeronvs scene` made")
    return found


def _photograph(run_dir: Path) -> str:
    """Return the name of a run's photograph."""
    if (run_dir / RECORD_FILE).is_file():
        record = read_json(run_dir / RECORD_FILE)
        title = record.get("title") if isinstance(record, dict) else None
        if isinstance(title, str) and title.isprintable() and title:
            return title
    return run_dir.resolve().name


def _matched(runs: tuple[Runs, Runs], methods: tuple[str, str]) -> list[str]:
    """Return the names of the photographs that are in both folders.

    Raises:
        InputError: There is none, or there are too many.
    """
    scenes = sorted(runs[0].keys() & runs[1].keys())
    if not scenes:
        raise InputError(
            f"no photograph is in both folders; {methods[0]} has {_few(runs[0])}, {methods[1]} has "
            f"{_few(runs[1])}"
        )
    if len(scenes) > MAX_PAIRS:
        raise InputError(f"there are {len(scenes)} pairs; a study has at most {MAX_PAIRS}")
    return scenes


def _few(runs: Runs) -> str:
    return ", ".join(sorted(runs)[:3]) + (", ..." if len(runs) > 3 else "")


def _check_pair(scene: str, folders: tuple[Path, Path], video: str | None) -> None:
    """Refuse runs that cannot be shown side by side.

    Raises:
        InputError: A run or video cannot be used, or the two differ in what both must share.
    """
    if video is None:
        shared_camera(open_run(folders[0]), open_run(folders[1]))
        return
    facts = [video_facts(folder / video) for folder in folders]
    if facts[0] != facts[1]:
        raise InputError(
            f"the videos of {scene} differ: {facts[0]}, and {facts[1]}; render both alike, or "
            "leave it away to have them rendered here",
            argument="video",
        )


def _plan(scenes: list[str], out: Path, config: StudyConfig, methods: tuple[str, str]) -> Study:
    """Write study.json, or return the plan that is there already.

    Raises:
        InputError: The folder holds something else.
    """
    settings = asdict(config) if config.video is None else {"video": config.video}
    if out.is_dir() and (out / STUDY_FILE).exists():
        study = read_study(out)
        there = {"methods": study.methods, "settings": study.settings}
        there |= {"scenes": [pair.scene for pair in study.pairs]}
        wanted = {"methods": methods, "settings": settings, "scenes": scenes}
        if different := differences(there, wanted):
            raise InputError(
                f"{out} contains another study ({'; '.join(different)}); give another folder",
                argument="out",
            )
        return study
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} contains other files; give another folder", argument="out")
    study = Study(
        folder=out,
        id=secrets.token_hex(16),
        methods=methods,
        settings=settings,
        pairs=tuple(
            Pair(scene=scene, videos=(f"{secrets.token_hex(8)}.mp4", f"{secrets.token_hex(8)}.mp4"))
            for scene in scenes
        ),
    )
    write_json(out / STUDY_FILE, study_json(study))
    return study


def _render(
    study: Study,
    pair: Pair,
    folders: tuple[Path, Path],
    config: StudyConfig,
    device: str,
    progress: Progress,
) -> None:
    """Render both runs along the same cameras."""
    runs = [open_run(folder, device) for folder in folders]
    shared = shared_camera(*runs)
    cameras = path_cameras(
        config.path or runs[0].path, shared, config.frames, config.size_px, runs[0].orbit_distances
    )
    for run, name, method in zip(runs, pair.videos, study.methods, strict=True):
        if study.video(name).is_file():
            continue
        images, _ = render_frames(run.scene, cameras, progress, stage=f"{pair.scene}, {method}")
        write_video(study.video(name), images, frames_per_second=config.frames_per_second)


def shared_camera(first: FinishedRun, second: FinishedRun) -> Camera:
    """Return the photograph's camera; the central square where one run knows no more of it.

    Raises:
        InputError: The runs have different cameras, so that the same path shows different things.
    """
    one, two = first.input_camera, second.input_camera
    shapes = [camera.image_size_px[0] / camera.image_size_px[1] for camera in (one, two)]
    if abs(shapes[0] - shapes[1]) > 0.02:
        one, two = one.center_square(), two.center_square()
    fov = float((one.fov_y_rad - two.fov_y_rad).abs())
    pose = float((one.camera_to_world - two.camera_to_world).abs().max())
    if fov > SAME_FOV_RAD or pose > SAME_POSE:
        raise InputError(
            f"{first.run_dir} and {second.run_dir} have different cameras of their photograph; "
            "make both with the same --fov-deg and --elevation-deg"
        )
    return one
