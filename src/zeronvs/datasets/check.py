"""Check of a data set or of shards: the problems of each scene, and a sheet that shows them.

Checked for each scene: everything can be read; poses are rigid; the cameras move; the rays of
matched corners meet (and if not, under which other pose convention they would); depth agrees with
the poses.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside, write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.workers import run_tasks
from zeronvs.cameras.camera import Camera
from zeronvs.datasets.check_image import PairRow, scene_sheet
from zeronvs.datasets.framing import DepthEstimate, LoadedFrame, choose_frames, load_frames
from zeronvs.datasets.pose_hypotheses import (
    AS_GIVEN,
    Matcher,
    Matches,
    depth_ratios,
    score_hypotheses,
)
from zeronvs.datasets.sources.scene_source import SceneFrame, SceneSource, SceneViews, clean_name

MIN_MATCHES = 30
"""Fewer matches in all pairs together do not decide on the poses."""
GOOD_SHARE = 0.8
"""Poses are good when at least this share of the matches fits."""
BAD_SHARE = 0.35
"""Poses are bad when less than this share fits."""
BETTER_BY = 0.2
"""A hypothesis must beat the given poses by this share."""
MIN_DEPTHS = 20
DEPTH_FACTOR = 1.2
"""Depth that is off by more than this factor is a problem."""
DEPTH_SPREAD = 0.3
"""Median deviation (of the logarithm) above which depth and poses have nothing in common."""
FOV_RANGE_DEG = (8.0, 120.0)
MAX_FRAMES_CHECKED = 60
LEFT_OUT_SHARE = 0.5
"""More left-out frames than this share are a problem, not a note."""


@dataclass(frozen=True)
class SceneCheck:
    """Result of one scene."""

    scene_id: str
    frames: int = 0
    """Frames of the source, those that cannot be used included."""
    fov_deg: float | None = None
    known_share: float = 0.0
    """Mean share of pixels with a depth in the checked frames."""
    agreement: float | None = None
    """Share of the matches whose rays meet; None where there are too few matches."""
    better: str | None = None
    """The hypothesis about the poses that fits the images better."""
    depth_factor: float | None = None
    """Median of given depth over the depth at which matched rays meet."""
    problems: tuple[str, ...] = ()
    """The worst first."""
    notes: tuple[str, ...] = ()
    """Skipped parts of the scene that do not make it unusable."""
    scores: dict[str, float] = field(default_factory=dict)
    """Share of matches that fit, by hypothesis."""
    sheet: str | None = None
    """File name of the contact sheet."""

    @property
    def verdict(self) -> str:
        """One line: all problems, or that there is none, and what was left out."""
        good = "good" if self.agreement is not None else "no problem, but too few corners match"
        return "; ".join((*(self.problems or (good,)), *self.notes))


def check_source(
    open_source: Callable[[], SceneSource],
    out: Path,
    *,
    split: str | None = None,
    pairs: int = 3,
    limit: int | None = None,
    load_depth: Callable[[], DepthEstimate] | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> list[SceneCheck]:
    """Check the scenes of a source; write their sheets and `report.json`.

    Args:
        open_source: Opens the source; called in every process, so it must be picklable.
        limit: At most so many scenes, evenly spread.
        load_depth: Loads a network for relative depth; with it sparse depth is filled for the
            sheets (never for the verdict).

    Raises:
        InputError: The source cannot be opened, or has no scene.
    """
    source = open_source()
    scene_ids = source.scene_ids(split)
    damages = [str(damage) for damage in getattr(source, "damages", [])]
    if limit is not None and len(scene_ids) > limit:
        scene_ids = [scene_ids[round(i)] for i in np.linspace(0, len(scene_ids) - 1, limit)]
    out.mkdir(parents=True, exist_ok=True)
    checks: list[SceneCheck] = [SceneCheck(d.split(":")[0], problems=(d,)) for d in damages]
    progress(ProgressEvent("check", 0, len(scene_ids)))
    make_worker = partial(_make_worker, open_source, out, split, pairs, load_depth)
    for step, result in enumerate(run_tasks(make_worker, scene_ids, workers=workers), 1):
        failed = SceneCheck(result.task, problems=(result.error or "",))
        checks.append(result.value or failed)
        values = {"wrong": float(sum(bool(check.problems) for check in checks))}
        progress(ProgressEvent("check", step, len(scene_ids), values))
    checks.sort(key=lambda check: check.scene_id)
    write_json(out / "report.json", {"scenes": [asdict(check) for check in checks]})
    return checks


def check_scene(
    scene: SceneViews, *, pairs: int = 3, estimate_depth: DepthEstimate | None = None
) -> tuple[
    SceneCheck,
    Image.Image | None,
]:
    """Check one scene; the sheet is None where there is no pair to show."""
    notes: list[str] = list(scene.notes)
    chosen, half_slope = choose_frames(scene, notes)
    checked = _spread(chosen, pairs)
    loaded = list(load_frames(checked, half_slope, notes))
    total = len(scene.frames) + scene.left_out
    left_out = total - len(chosen) + len(checked) - len(loaded)
    if len(loaded) < 2:
        reason = f": {notes[0]}" if notes else ""
        problem = f"only {len(loaded)} of {total} frames can be used, which makes no pair{reason}"
        return SceneCheck(scene.scene_id, total, problems=(problem,), notes=tuple(notes[1:4])), None
    cameras = [frame.framing.target for frame in loaded]
    fov_deg = float(torch.rad2deg(cameras[0].fov_y_rad))
    problems = []
    if not FOV_RANGE_DEG[0] <= fov_deg <= FOV_RANGE_DEG[1]:
        problems.append(f"the field of view is {fov_deg:.1f} degrees, which few cameras have")
    problems += _still(cameras)
    summary = _summary(notes, left_out, total)
    if left_out > LEFT_OUT_SHARE * total:
        problems, summary = problems + summary, []
    matches = _choose_pairs(Matcher([frame.image for frame in loaded]), len(loaded), pairs)
    scores = score_hypotheses(matches, cameras)
    enough = sum(len(pair) for pair in matches) >= MIN_MATCHES
    agreement = scores[AS_GIVEN] if enough else None
    better, pose_problems = _judge_poses(scores) if enough else (None, [])
    poses_are_good = enough and not pose_problems
    factor, depth_problems = _judge_depth(matches, loaded, poses_are_good=poses_are_good)
    check = SceneCheck(
        scene.scene_id,
        total,
        fov_deg,
        float(np.mean([(frame.depth_z > 0).mean() for frame in loaded])),
        agreement,
        better,
        factor,
        tuple(pose_problems + depth_problems + problems),
        tuple(summary),
        {name: round(value, 4) for name, value in scores.items()},
    )
    rows = [
        PairRow(loaded[pair.first], loaded[pair.second], pair, estimate_depth) for pair in matches
    ]
    title = f"{scene.scene_id}   {total} frames, fov {fov_deg:.0f} deg"
    if agreement is not None:
        title += f", {agreement:.0%} of matches agree with the poses"
    if factor is not None:
        title += f", depth x{1 / factor:.2f} fits" if depth_problems else ", depth agrees"
    return check, scene_sheet(rows, title, check.verdict, good=not check.problems)


def _spread(frames: list[SceneFrame], pairs: int) -> list[SceneFrame]:
    """Choose runs of consecutive frames, spread over the scene: pairs need overlap."""
    if len(frames) <= MAX_FRAMES_CHECKED:
        return frames
    run = MAX_FRAMES_CHECKED // pairs
    starts = np.linspace(0, len(frames) - run, pairs).astype(int)
    indices = sorted({int(start) + k for start in starts for k in range(run)})
    return [frames[index] for index in indices]


def _choose_pairs(matcher: Matcher, frames: int, pairs: int) -> list[Matches]:
    """Choose pairs over the whole scene with common corners and parallax, without the poses."""
    chosen = []
    for first in np.linspace(0, frames - 2, min(pairs, frames - 1)).round().astype(int):
        candidates = []
        for offset in sorted({1, 3, max(1, frames // 5)}):
            second = first + offset if first + offset < frames else first - offset
            if 0 <= second < frames:
                candidates.append(matcher.match(int(first), int(second)))
        enough = [matches for matches in candidates if len(matches) >= MIN_MATCHES]
        if enough:
            chosen.append(max(enough, key=_motion))
        elif candidates:
            chosen.append(max(candidates, key=len))
    return chosen


def _motion(matches: Matches) -> float:
    """Score a pair by its median displacement, up to a fifth of the image, and its matches."""
    displacement_px = float((matches.first_uv - matches.second_uv).norm(dim=-1).median())
    return min(displacement_px, 50.0) * min(len(matches), 80)


def _judge_poses(scores: dict[str, float]) -> tuple[str | None, list[str]]:
    """Return the better hypothesis, if any, and the problems."""
    given = scores[AS_GIVEN]
    best = max(scores, key=lambda name: scores[name])
    if best != AS_GIVEN and given < GOOD_SHARE and scores[best] > given + BETTER_BY:
        return best, [
            f"{best}: then {scores[best]:.0%} of the matched corners agree, as given {given:.0%}"
        ]
    if given < BAD_SHARE:
        return None, [
            f"the poses explain {given:.0%} of the matched corners, and no known convention "
            f"explains more than {scores[best]:.0%}"
        ]
    return None, []


def _judge_depth(
    matches: list[Matches], frames: list[LoadedFrame], *, poses_are_good: bool
) -> tuple[float | None, list[str]]:
    """Compare given depth with the depth at which matched rays meet."""
    if not any((frame.depth_z > 0).any() for frame in frames):
        return None, []
    wrong = [frame.name for frame in frames if not np.isfinite(frame.depth_z).all()]
    problems = [f"depth is not finite, e.g. in {wrong[0]}"] if wrong else []
    if not poses_are_good:
        return None, problems
    ratios = [
        depth_ratios(
            pair,
            frames[pair.first].framing.target,
            frames[pair.second].framing.target,
            frames[pair.first].depth_z,
        )
        for pair in matches
    ]
    table = np.concatenate(ratios) if ratios else np.zeros((0, 2))
    if len(table) < MIN_DEPTHS:
        return None, problems
    ratio = np.log(table[:, 0] / table[:, 1])
    factor = float(np.exp(np.median(ratio)))
    spread = float(np.median(np.abs(ratio - np.median(ratio))))
    product = np.log(table[:, 0] * table[:, 1])
    inverse = float(np.median(np.abs(product - np.median(product))))
    if spread > 0.1 and inverse < 0.5 * spread:
        problems.append("depth looks like inverse depth (disparity)")
    elif spread > DEPTH_SPREAD:
        problems.append(f"depth disagrees with the poses: it scatters by {np.expm1(spread):.0%}")
    elif not 1 / DEPTH_FACTOR < factor < DEPTH_FACTOR:
        problems.append(
            f"depth is {factor:.3g} times the depth that the poses imply; its unit differs"
        )
    return factor, problems


def _still(cameras: list[Camera]) -> list[str]:
    """Return the problem of cameras without motion, if any."""
    poses = torch.stack([camera.camera_to_world for camera in cameras])
    if bool((poses - poses[0]).abs().max() == 0):
        return ["all poses are the same"]
    if float((poses[:, :3, 3] - poses[0, :3, 3]).norm(dim=-1).max()) == 0:
        return ["all cameras have one position; there is no parallax to learn from"]
    return []


def _summary(notes: list[str], left_out: int, total: int) -> list[str]:
    """Summarise the excluded frames with one example; keep other notes."""
    reasons = [note for note in notes if "left out" in note]
    others = [note for note in notes if note not in reasons and "enlarged" not in note]
    if left_out and reasons:
        return [f"{left_out} of {total} frames cannot be used; e.g. {reasons[0]}", *others[:3]]
    return [*reasons[:3], *others[:3]]


def _make_worker(
    open_source: Callable[[], SceneSource],
    out: Path,
    split: str | None,
    pairs: int,
    load_depth: Callable[[], DepthEstimate] | None,
) -> Callable[[str], SceneCheck]:
    source = open_source()
    estimate_depth = None if load_depth is None else load_depth()

    def check_one(scene_id: str) -> SceneCheck:
        try:
            scene = source.load(scene_id, split)
        except InputError as error:
            return SceneCheck(scene_id, problems=(" ".join(str(error).split()),))
        check, sheet = check_scene(scene, pairs=pairs, estimate_depth=estimate_depth)
        if sheet is None:
            return check
        name = f"{clean_name(scene_id.replace('/', '_'))}.png"
        with write_aside(out / name) as aside:
            sheet.save(aside)
        return replace(check, sheet=name)

    return check_one
