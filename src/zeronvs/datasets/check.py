"""What is wrong in a data set, or in shards: a list a scene, and a picture that shows it.

Asked of each scene: can everything be read; are poses rotations and shifts; do the cameras move; do
the rays of matched corners meet (and if not, which misreading of the poses would make them meet);
does depth say the same as the poses.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside, write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.workers import do_pieces
from zeronvs.cameras.camera import Camera
from zeronvs.datasets.check_image import DepthEstimate, PairPicture, scene_picture
from zeronvs.datasets.framed_scene import ShownFrame, choose_frames, show_frames
from zeronvs.datasets.pose_hypotheses import (
    AS_GIVEN,
    Matcher,
    Matches,
    depth_ratios,
    score_hypotheses,
)
from zeronvs.datasets.sources.folders import clean_name
from zeronvs.datasets.sources.scene_source import SceneSource, SceneViews

FEWEST_MATCHES = 30
"""Fewer matches in all pairs together say nothing of the poses."""
AGREES = 0.8
"""Poses are surely good when so many matches fit."""
DISAGREES = 0.35
"""Poses are bad when fewer fit."""
CLEARLY_BETTER = 0.2
"""A hypothesis must beat the poses as they are by so much."""
FEWEST_DEPTHS = 20
DEPTH_FACTOR = 1.2
"""Depth that is off by more than this factor is told."""
DEPTH_SPREAD = 0.3
"""Median deviation (of the logarithm) above which depth and poses have nothing in common."""
FOV_DEG = (8.0, 120.0)
MOST_FRAMES_LOOKED_AT = 60


@dataclass(frozen=True)
class SceneCheck:
    """What was found in one scene."""

    scene_id: str
    frames: int = 0
    fov_deg: float | None = None
    known_share: float = 0.0
    """Of the pixels of the frames that were looked at, how many have a depth."""
    agreement: float | None = None
    """Share of the matches whose rays meet; None where there were too few to tell."""
    better: str | None = None
    """The misreading that would explain the pictures better."""
    depth_factor: float | None = None
    """Median of given depth over the depth at which matched rays meet."""
    problems: tuple[str, ...] = ()
    """What is wrong, the worst first."""
    scores: dict[str, float] = field(default_factory=dict)
    """Share of matches that fit, by hypothesis."""
    picture: str | None = None
    """File name of the picture."""


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
    """Check the scenes of a source; write their pictures and `report.json`.

    Args:
        open_source: Opens the source; called in every process, so it can be pickled.
        out: Folder for pictures and report.
        split: Only this one.
        pairs: Pairs of frames a scene.
        limit: Only so many scenes, evenly spread.
        load_depth: Loads a network for relative depth; with it sparse depth is filled for the
            pictures (never for the verdict).
        workers: Processes.
        progress: Is told of every scene.

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
    tools = partial(_tools, open_source, out, split, pairs, load_depth)
    for step, outcome in enumerate(do_pieces(tools, scene_ids, workers=workers), 1):
        failed = SceneCheck(outcome.piece, problems=(outcome.error or "",))
        checks.append(outcome.answer or failed)
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
    """Look at one scene; the picture is None where no pair could be shown."""
    notes: list[str] = list(scene.notes)
    chosen = choose_frames(scene, notes)
    looked_at = chosen
    if len(chosen) > MOST_FRAMES_LOOKED_AT:
        # Runs of neighbouring frames, spread over the scene: pairs need frames that overlap.
        run = MOST_FRAMES_LOOKED_AT // pairs
        starts = np.linspace(0, len(chosen) - run, pairs).astype(int)
        places = sorted({start + k for start in starts for k in range(run)})
        looked_at = [chosen[place] for place in places]
    shown = list(show_frames(looked_at, notes))
    problems = _count_notes(notes, len(scene.frames))
    if len(shown) < 2:
        problems.insert(0, f"only {len(shown)} frames can be used, which makes no pair")
        return SceneCheck(scene.scene_id, len(scene.frames), problems=tuple(problems)), None
    cameras = [frame.framing.target for frame in shown]
    fov_deg = float(torch.rad2deg(cameras[0].fov_y_rad))
    if not FOV_DEG[0] <= fov_deg <= FOV_DEG[1]:
        problems.append(f"the field of view is {fov_deg:.1f} degrees, which few cameras have")
    problems += _still(cameras)
    matches = _choose_pairs(Matcher([frame.image for frame in shown]), len(shown), pairs)
    scores = score_hypotheses(matches, cameras)
    told = sum(len(found) for found in matches) >= FEWEST_MATCHES
    agreement = scores[AS_GIVEN] if told else None
    better, said = _judge_poses(scores) if told else (None, [])
    factor, said_depth = _judge_depth(matches, shown, poses_are_good=told and not said)
    check = SceneCheck(
        scene.scene_id,
        len(scene.frames),
        fov_deg,
        float(np.mean([(frame.depth_z > 0).mean() for frame in shown])),
        agreement,
        better,
        factor,
        tuple(said + said_depth + problems),
        {name: round(value, 4) for name, value in scores.items()},
    )
    rows = [
        PairPicture(shown[found.first], shown[found.second], found, estimate_depth)
        for found in matches
    ]
    fine = "good" if told else "nothing wrong seen, but too few corners match to judge the poses"
    verdict = check.problems[0] if check.problems else fine
    title = f"{scene.scene_id}   {len(scene.frames)} frames, fov {fov_deg:.0f} deg"
    if agreement is not None:
        title += f", {agreement:.0%} of matches agree with the poses"
    if factor is not None:
        title += f", depth x{1 / factor:.2f} fits" if said_depth else ", depth agrees"
    return check, scene_picture(rows, title, verdict, good=not check.problems)


def _choose_pairs(matcher: Matcher, frames: int, pairs: int) -> list[Matches]:
    """Pair frames all over the scene with ones that share corners but moved, poses unasked."""
    found = []
    for first in np.linspace(0, frames - 2, min(pairs, frames - 1)).round().astype(int):
        candidates = []
        for offset in sorted({1, 3, max(1, frames // 5)}):
            second = first + offset if first + offset < frames else first - offset
            if 0 <= second < frames:
                candidates.append(matcher.match(int(first), int(second)))
        enough = [matches for matches in candidates if len(matches) >= FEWEST_MATCHES]
        if enough:
            found.append(max(enough, key=_motion))
        elif candidates:
            found.append(max(candidates, key=len))
    return found


def _motion(matches: Matches) -> float:
    """Return how good a pair is to look at: corners that moved, up to a fifth of the picture."""
    moved = float((matches.first_uv - matches.second_uv).norm(dim=-1).median())
    return min(moved, 50.0) * min(len(matches), 80)


def _judge_poses(scores: dict[str, float]) -> tuple[str | None, list[str]]:
    """Return the better hypothesis, if there is one, and what to say."""
    given = scores[AS_GIVEN]
    best = max(scores, key=lambda name: scores[name])
    if best != AS_GIVEN and given < AGREES and scores[best] > given + CLEARLY_BETTER:
        return best, [
            f"{best}: then {scores[best]:.0%} of the matched corners agree, as given {given:.0%}"
        ]
    if given < DISAGREES:
        return None, [
            f"the poses explain {given:.0%} of the matched corners, and no known convention "
            f"explains more than {scores[best]:.0%}"
        ]
    return None, []


def _judge_depth(
    matches: list[Matches], shown: list[ShownFrame], *, poses_are_good: bool
) -> tuple[float | None, list[str]]:
    """Compare given depth with the depth at which matched rays meet."""
    if not any((frame.depth_z > 0).any() for frame in shown):
        return None, []
    wrong = [frame.name for frame in shown if not np.isfinite(frame.depth_z).all()]
    said = [f"depth is not finite, e.g. in {wrong[0]}"] if wrong else []
    if not poses_are_good:
        return None, said
    pairs = [
        depth_ratios(
            found,
            shown[found.first].framing.target,
            shown[found.second].framing.target,
            shown[found.first].depth_z,
        )
        for found in matches
    ]
    table = np.concatenate(pairs) if pairs else np.zeros((0, 2))
    if len(table) < FEWEST_DEPTHS:
        return None, said
    ratio = np.log(table[:, 0] / table[:, 1])
    factor = float(np.exp(np.median(ratio)))
    spread = float(np.median(np.abs(ratio - np.median(ratio))))
    product = np.log(table[:, 0] * table[:, 1])
    inverse = float(np.median(np.abs(product - np.median(product))))
    if spread > 0.1 and inverse < 0.5 * spread:
        said.append("depth looks like inverse depth (disparity)")
    elif spread > DEPTH_SPREAD:
        said.append(f"depth disagrees with the poses: it scatters by {np.expm1(spread):.0%}")
    elif not 1 / DEPTH_FACTOR < factor < DEPTH_FACTOR:
        said.append(f"depth is {factor:.3g} times what the poses say; its unit is another one")
    return factor, said


def _still(cameras: list[Camera]) -> list[str]:
    """Say when all cameras stand at one place, or share one pose."""
    poses = torch.stack([camera.camera_to_world for camera in cameras])
    if bool((poses - poses[0]).abs().max() == 0):
        return ["all poses are the same"]
    if float((poses[:, :3, 3] - poses[0, :3, 3]).norm(dim=-1).max()) == 0:
        return ["all cameras stand at one place; there is no parallax to learn from"]
    return []


def _count_notes(notes: list[str], frames: int) -> list[str]:
    """Sum up what was left out, with one example of each kind."""
    if not notes:
        return []
    left_out = sum("left out" in note for note in notes)
    if left_out:
        example = next(note for note in notes if "left out" in note)
        return [f"{left_out} of {frames} frames cannot be used; e.g. {example}"]
    return [note for note in notes if "enlarged" not in note][:3]


def _tools(
    open_source: Callable[[], SceneSource],
    out: Path,
    split: str | None,
    pairs: int,
    load_depth: Callable[[], DepthEstimate] | None,
) -> Callable[[str], SceneCheck]:
    source = open_source()
    estimate_depth = None if load_depth is None else load_depth()

    def do(scene_id: str) -> SceneCheck:
        try:
            scene = source.load(scene_id, split)
        except InputError as error:
            return SceneCheck(scene_id, problems=(" ".join(str(error).split()),))
        check, picture = check_scene(scene, pairs=pairs, estimate_depth=estimate_depth)
        if picture is None:
            return check
        name = f"{clean_name(scene_id.replace('/', '_'))}.png"
        with write_aside(out / name) as aside:
            picture.save(aside)
        return SceneCheck(**{**asdict(check), "picture": name})

    return do
