"""Scenes of single images measured by a published protocol, at four scales; resumable by scene.

A single image does not tell its scale, so a protocol must choose g, the units of the data set per
unit of the scene (`BenchmarkScene.target_cameras`). The published numbers take the best of a grid,
which the true views decide; here each way is a column:

- oracle: the best of the grid, for this scene, method and seed, as the paper's search does;
- published: the value that the paper's search found;
- depth: the median ratio of the known sparse depth of the input to that of the scene;
- estimated: from the image and the commanded cameras alone: what lies in the centre of the image,
  by its predicted depth, is where the cameras look.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, runtime_checkable
from typing import Protocol as TypingProtocol

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.files import read_json, write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View, resize_image
from zeronvs.cameras.warp import fill_holes, forward_warp
from zeronvs.evaluation.consistency import tsed
from zeronvs.evaluation.image_metrics import TSED, ImageMetrics, better
from zeronvs.evaluation.metrics import WARP
from zeronvs.evaluation.protocols.dtu import find_scans, read_scan
from zeronvs.evaluation.protocols.mipnerf360 import find_captures, read_capture
from zeronvs.evaluation.protocols.protocol import (
    BenchmarkScene,
    Protocol,
    ProtocolName,
    load_protocol,
    spread_evenly,
)
from zeronvs.evaluation.views import COPY, OURS
from zeronvs.formats.images import contact_sheet, write_image
from zeronvs.photo.estimates import estimate_scene_scale
from zeronvs.protocols import GeometryEstimator, Scene

ScaleName = Literal["oracle", "published", "depth", "estimated"]
SCALES: tuple[ScaleName, ...] = get_args(ScaleName)
METHODS = (OURS, WARP, COPY)
MIN_KNOWN_POINTS = 12
"""With fewer points of known depth, the column `depth` stays empty."""
SEARCH_VIEWS = 8
"""True views that the search for the scale looks at, spread evenly: it chooses one number."""
RENDER_BATCH = 4
SHEET_VIEWS = 3

Renderer = Callable[[Camera], Float[Tensor, "b 3 h w"]]
"""Images of a method at cameras of the method's frame, on the CPU."""


@runtime_checkable
class SceneMaker(TypingProtocol):
    """Makes a scene of one view, such as `reconstruct` with a recipe."""

    def __call__(self, view: View, *, scene_scale: float, seed: int, run_dir: Path) -> Scene:
        """Return the scene.

        Args:
            view: At the canonical camera, with depth.
            scene_scale: The paper's q.
            seed: All randomness follows from it.
            run_dir: Where unfinished work is kept, to be resumed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Settings of one evaluation."""

    seeds: tuple[int, ...] = (0,)
    """Every scene is made once with each."""
    scenes: tuple[str, ...] | None = None
    """Names in the protocol; None: all that are there."""
    limit: int | None = None
    """At most so many views of each scene, spread evenly; None: all, as published."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One method at one scale, the mean over the views of a scene."""

    scale: float
    """g."""
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SceneScores:
    """One scene with one seed."""

    scene: str
    seed: int
    views: int
    scores: Mapping[str, Mapping[str, Score]]
    """Method -> scale -> score; a scale that could not be found is missing."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """All scenes of a protocol that were measured."""

    key: ProtocolName
    protocol: Protocol
    scores: tuple[SceneScores, ...]
    metrics: tuple[str, ...]
    backbones: Mapping[str, str | None]
    missing: tuple[str, ...] = ()
    """Scenes of the protocol that were not measured."""
    sheets: Mapping[str, Path] = field(default_factory=dict)
    """Scene -> its contact sheet."""

    @property
    def scenes(self) -> list[str]:
        """The scenes that were measured, in the order of the protocol."""
        return list(dict.fromkeys(item.scene for item in self.scores))

    def values(self, method: str, scale: str, metric: str) -> list[float]:
        """Return the mean over all scenes for each seed; empty if a scene lacks that scale."""
        by_seed: dict[int, list[float]] = {}
        for item in self.scores:
            score = item.scores[method].get(scale)
            if score is None or metric not in score.metrics:
                return []
            by_seed.setdefault(item.seed, []).append(score.metrics[metric])
        return [statistics.fmean(values) for values in by_seed.values()]


def evaluate_benchmark(
    key: ProtocolName,
    root: Path,
    make_scene: SceneMaker,
    geometry_estimator: GeometryEstimator,
    metrics: ImageMetrics,
    config: BenchmarkConfig,
    *,
    out: Path,
    protocol: Protocol | None = None,
    progress: Progress = silent,
) -> BenchmarkResult:
    """Make a scene of the input of every scene of a data set, and measure it.

    Args:
        key: The protocol.
        root: The data set, or one scene of it.
        make_scene: Makes the scene.
        geometry_estimator: Predicts the depth of the inputs.
        metrics: What is measured.
        config: Settings.
        out: Where the scores of each scene are kept; those that are there are not measured again.
        protocol: None: the published one.
        progress: Called after every scene.

    Raises:
        InputError: No scene of the protocol is there, or one cannot be read.
    """
    protocol = protocol or load_protocol(key)
    found = find_scans(root) if key == "dtu" else find_captures(root)
    names = _chosen(protocol, found, config.scenes, root)
    read = read_scan if key == "dtu" else read_capture
    scores, sheets = [], {}
    for number, name in enumerate(names):
        scene: BenchmarkScene | None = None
        for seed in config.seeds:
            folder = out / key / name / f"seed{seed}"
            if not (folder / "scores.json").is_file():
                if scene is None:
                    scene = read(found[name], name, protocol, limit=config.limit)
                _measure_scene(
                    scene, protocol, make_scene, geometry_estimator, metrics, seed, folder
                )
            scores.append(_read_scores(folder / "scores.json"))
            sheets.setdefault(name, folder / "sheet.png")
        progress(ProgressEvent(f"evaluate {protocol.name}", number + 1, len(names)))
    return BenchmarkResult(
        key=key,
        protocol=protocol,
        scores=tuple(scores),
        metrics=(*metrics.names, TSED),
        backbones={name: metrics.backbone(name) for name in (*metrics.names, TSED)},
        missing=tuple(name for name in protocol.scenes if name not in names),
        sheets=sheets,
    )


def _chosen(
    protocol: Protocol, found: Mapping[str, Path], wanted: tuple[str, ...] | None, root: Path
) -> list[str]:
    """Return the scenes to measure, in the order of the protocol."""
    for name in wanted or ():
        if name not in protocol.scenes or name not in found:
            reason = f"{root} has no folder {name}"
            if name not in protocol.scenes:
                reason = f"{protocol.name} has: {', '.join(protocol.scenes)}"
            raise InputError(f"there is no scene {name!r} to measure: {reason}", argument="scenes")
    names = [name for name in protocol.scenes if name in (wanted or found) and name in found]
    if not names:
        raise InputError(
            f"{root} has none of the {len(protocol.scenes)} scenes of {protocol.name}, such as "
            f"{next(iter(protocol.scenes))}; it has {', '.join(list(found)[:5])}"
        )
    return names


def _measure_scene(
    scene: BenchmarkScene,
    protocol: Protocol,
    make_scene: SceneMaker,
    geometry_estimator: GeometryEstimator,
    metrics: ImageMetrics,
    seed: int,
    folder: Path,
) -> None:
    """Make one scene, measure every method at every scale, and write scores and a sheet."""
    geometry = geometry_estimator.estimate(scene.input_view.image[None])
    depth_z = geometry.scaled_depth(scene.content_scale)[0].float().cpu()
    view = View(scene.input_view.image, scene.canonical_camera, depth_z)
    made = make_scene(view, scene_scale=scene.content_scale, seed=seed, run_dir=folder / "run")
    own_depth_z = made.render(view.camera.batched().to(made.device)).depth_z[0].cpu()
    depths = {OURS: own_depth_z, WARP: depth_z}
    renderers = _renderers(made, view, protocol.background)
    estimated = scene.focus_distance * centre_scale(depth_z, scene.content_scale)
    scores: dict[str, dict[str, Score]] = {}
    shown: dict[str, Tensor] = {}
    for method, renderer in renderers.items():
        if method == COPY:  # sees no camera
            means = _mean_scores(renderer, scene, [1.0], metrics)[1.0]
            scores[method] = {name: Score(scale=1.0, metrics=means) for name in SCALES}
            continue
        known = aligned_scale(scene.known_depth_z, depths[method])
        columns = {"published": scene.published_scale, "estimated": estimated}
        columns |= {} if known is None else {"depth": known}
        columns["oracle"] = _search(renderer, scene, protocol.scale_grid, metrics)
        found = _mean_scores(renderer, scene, list(columns.values()), metrics)
        for name, g in columns.items():
            means = found[g]
            if method == OURS:
                cameras = scene.target_cameras(g)
                shown[name] = renderer(cameras)
                means = means | ({TSED: tsed(shown[name], cameras)} if len(cameras) > 1 else {})
            scores.setdefault(method, {})[name] = Score(scale=g, metrics=means)
    notes = list(scene.notes)
    if "depth" not in scores[OURS]:
        notes.append(f"fewer than {MIN_KNOWN_POINTS} points of the input have a known depth")
    write_image(folder / "sheet.png", _sheet(scene, shown))
    result = SceneScores(
        scene=scene.name,
        seed=seed,
        views=len(scene.targets),
        scores=scores,
        notes=tuple(notes),
    )
    write_json(folder / "scores.json", asdict(result))


def aligned_scale(
    known_depth_z: Float[Tensor, "h w"], scene_depth_z: Float[Tensor, "h w"]
) -> float | None:
    """Return the g that aligns a scene's depth to the known sparse depth; None with too few points.

    Args:
        known_depth_z: Units of the data set; 0 = unknown.
        scene_depth_z: Units of the scene, at the same camera; 0 = nothing there.
    """
    usable = (known_depth_z > 0) & (scene_depth_z > 0)
    if int(usable.sum()) < MIN_KNOWN_POINTS:
        return None
    return float((known_depth_z[usable] / scene_depth_z[usable]).median())


def centre_scale(depth_z: Float[Tensor, "h w"], content_scale: float) -> float:
    """Return 1 over the depth of what lies in the image's centre, in units of the scene.

    Args:
        depth_z: Of the input view, units of the scene.
        content_scale: The paper's q, with which the depth was scaled.
    """
    return estimate_scene_scale(depth_z / content_scale).value / content_scale


def _search(
    renderer: Renderer, scene: BenchmarkScene, grid: Sequence[float], metrics: ImageMetrics
) -> float:
    """Return the best scale of the grid, by at most `SEARCH_VIEWS` of the true views."""
    deciding = ImageMetrics(lpips=metrics.lpips[:1], device=metrics.device)
    chosen = spread_evenly(list(range(len(scene.targets))), SEARCH_VIEWS)
    names = tuple(scene.target_names[index] for index in chosen)
    part = replace(scene, targets=scene.targets[chosen], target_names=names)
    return search_best(_mean_scores(renderer, part, grid, deciding))


def search_best(grid: Mapping[float, Mapping[str, float]]) -> float:
    """Return the scale of the grid with the best LPIPS; the best PSNR where that is not measured.

    The paper does not say which metric its search took; it weighs LPIPS most.
    """
    measured = next(iter(grid.values()))
    metric = next((name for name in measured if name.startswith("LPIPS")), "PSNR")
    best = max if better(metric) == "higher" else min
    return best(grid, key=lambda g: grid[g][metric])


def _renderers(made: Scene, view: View, background: float) -> dict[str, Renderer]:
    """Return the methods of the table."""
    grey = torch.full((3,), background, device=made.device)

    def ours(cameras: Camera) -> Tensor:
        return made.render(cameras.to(made.device), background=grey).rgb.float().cpu()

    def warp(cameras: Camera) -> Tensor:
        count = len(cameras)
        inputs = View(
            view.image.expand(count, -1, -1, -1),
            view.camera.with_poses(view.camera.camera_to_world.expand(count, 4, 4)),
            None if view.depth_z is None else view.depth_z.expand(count, -1, -1),
        )
        images, validity = forward_warp(inputs, cameras)
        return fill_holes(images * validity, validity)

    def copy(cameras: Camera) -> Tensor:
        images = resize_image(view.image, cameras.image_size_px)
        return images.expand(len(cameras), -1, -1, -1)

    def batched(method: Renderer) -> Renderer:
        @torch.no_grad()
        def render(cameras: Camera) -> Tensor:
            starts = range(0, len(cameras), RENDER_BATCH)
            parts = [method(cameras[start : start + RENDER_BATCH]) for start in starts]
            return torch.cat(parts).clamp(0, 1)

        return render

    return {OURS: batched(ours), WARP: batched(warp), COPY: batched(copy)}


def _mean_scores(
    renderer: Renderer, scene: BenchmarkScene, scales: Sequence[float], metrics: ImageMetrics
) -> dict[float, dict[str, float]]:
    """Return for each scale the mean of each metric over the targets of a scene."""
    cameras = {g: scene.target_cameras(g) for g in scales}
    sums = {g: dict.fromkeys(metrics.names, 0.0) for g in scales}
    count = len(scene.targets)
    for start in range(0, count, RENDER_BATCH):
        part = slice(start, start + RENDER_BATCH)
        truth = metrics.prepare(scene.targets.image[part])
        for g, sum_of in sums.items():
            for name, values in metrics.measure(renderer(cameras[g][part]), truth).items():
                sum_of[name] += float(values.double().sum())
    return {
        g: {name: total / count for name, total in sum_of.items()} for g, sum_of in sums.items()
    }


def _sheet(
    scene: BenchmarkScene, shown: Mapping[str, Float[Tensor, "n 3 h w"]]
) -> Float[Tensor, "3 sheet_h sheet_w"]:
    """Return the input, and some targets beside the scene at each scale."""
    rows = []
    for index in spread_evenly(list(range(len(scene.targets))), SHEET_VIEWS):
        images = [scene.input_view.image, scene.targets.image[index]]
        blank = torch.ones_like(images[0])
        images += [shown[name][index] if name in shown else blank for name in SCALES]
        rows += images
    return contact_sheet(torch.stack(rows), columns=2 + len(SCALES))


def _read_scores(path: Path) -> SceneScores:
    """Read what `_measure_scene` wrote.

    Raises:
        InputError: The file is damaged.
    """
    content: Any = read_json(path)
    with ReadingErrors(f"{path} is damaged; remove it", KeyError, TypeError, AttributeError):
        scores: dict[str, dict[str, Score]] = {
            method: {name: Score(**score) for name, score in columns.items()}
            for method, columns in content.pop("scores").items()
        }
        notes: Sequence[str] = content.pop("notes")
        return SceneScores(scores=scores, notes=tuple(notes), **content)
