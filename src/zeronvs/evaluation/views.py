"""Evaluation of novel views on held-out scenes; baselines: the input copied, the input warped."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View, resize_image
from zeronvs.diffusion.conditioning_kind import SamplingDefaults
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.evaluation.held_out import (
    HeldOutPair,
    PairName,
    PairReader,
    motion_classes,
)
from zeronvs.evaluation.image_metrics import ImageMetrics
from zeronvs.evaluation.lpips import Lpips
from zeronvs.evaluation.metrics import KID, ImageFeatures, kernel_distance, warped_input
from zeronvs.evaluation.protocols.published_pairs import open_pairs
from zeronvs.perceptual import PerceptualDistance
from zeronvs.protocols import GeometryEstimator

Config = TypeVar("Config", bound="ViewsEvaluationConfig")

OURS = "ours"
OURS_GIVEN_DEPTH = "ours, depth given"
COPY = "input copied"
TRUTH = "truth"


@dataclass(frozen=True, kw_only=True)
class ViewsEvaluationConfig:
    """Settings of one evaluation."""

    num_inference_steps: int | None = None
    """DDIM steps; None, here and below: the model's own (`sampling_defaults`)."""
    guidance_scale: float | None = None
    eta: float | None = None
    batch_size: int = 8
    seed: int = 0
    """Pair k of the list is sampled with seed + k."""
    limit: int | None = None
    """So many pairs, spread evenly over the list; None takes all."""
    given_depth: bool = False
    """Also let the model see the depth that the warp baseline moves along."""
    sheet_rows: int = 12
    """Pairs shown of each class."""
    size_px: int = 256
    """Side of the views that are measured, whatever size a model works at."""


@dataclass(frozen=True)
class PairScore:
    """The metrics of one pair: method -> metric -> value."""

    name: PairName
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class LeftOut:
    """A pair without scores."""

    name: PairName
    reason: str
    """One line."""


@dataclass(frozen=True, eq=False)
class ViewsEvaluation:
    """Scores of all pairs, and sheets of some."""

    config: ViewsEvaluationConfig
    """Settings, with the model's defaults filled in."""

    pairs: tuple[PairScore, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    sheets: dict[str, list[Float[Tensor, "columns 3 h w"]]] = field(default_factory=dict)
    """Class -> images of some pairs: input, truth, then the methods other than the copy."""
    left_out: tuple[LeftOut, ...] = ()
    """Pairs that could not be read, so that nothing of them was measured."""
    distances: dict[tuple[str, str], float] = field(default_factory=dict)
    """Class and method -> kernel distance of the views to the truth."""
    data_notes: tuple[str, ...] = ()
    """Sentences about the data, for a report."""

    def mean(self, motion_class: str, method: str, metric: str) -> float:
        """Return the mean over the pairs of a class, or the one distance of the class."""
        if metric == KID:
            return self.distances[motion_class, method]
        values = [
            pair.scores[method][metric]
            for pair in self.pairs
            if pair.name.motion_class == motion_class
        ]
        return sum(values) / len(values)

    @property
    def resolution(self) -> str:
        """Width x height of the images that are measured, pixels."""
        return f"{self.config.size_px}x{self.config.size_px}"

    def notes(self) -> list[str]:
        """Return lines for a report."""
        return list(self.data_notes)

    def classes(self) -> list[str]:
        """Return the classes of motion, in order."""
        return motion_classes([pair.name for pair in self.pairs])


@torch.no_grad()
def evaluate_views(
    pipe: ZeroNVSPipeline | None,
    folder: Path,
    perceptual: PerceptualDistance | None,
    config: ViewsEvaluationConfig,
    progress: Progress = silent,
    *,
    lpips: Sequence[Lpips] = (),
    features: ImageFeatures | None = None,
    geometry_estimator: GeometryEstimator | None = None,
    split: Path | None = None,
) -> ViewsEvaluation:
    """Measure new views of every pair of a folder of posed scenes; pairs that it cannot are named.

    Args:
        pipe: The model; it is given the scene scale. None measures the baselines alone.
        folder: Posed scenes and their pairs (see `open_pairs`).
        perceptual: ST-LPIPS; None leaves its column out.
        lpips: LPIPS, a column each.
        features: For the kernel distance; None leaves its column out.
        geometry_estimator: Predicts the depth that the model is given; without one, the model is
            given the depth of the warp baseline.
        split: pixelSplat's evaluation index, where the folder holds its chunks.

    Raises:
        InputError: The list of pairs cannot be read, or none of its pairs.
    """
    if pipe is not None:
        config = with_defaults(config, pipe.conditioning.sampling_defaults)
    data = open_pairs(folder, config.size_px, geometry_estimator, limit=config.limit, split=split)
    names = data.names
    shown = {label: spread(names, label, config.sheet_rows) for label in motion_classes(names)}
    scores: list[PairScore] = []
    sheets, found_features = defaultdict(list), Features(features)
    methods: tuple[str, ...] = ()
    left_out: list[LeftOut] = []
    metrics = ImageMetrics(perceptual=perceptual, lpips=tuple(lpips))
    for start in range(0, len(names), config.batch_size):
        found = read_pairs(data.reader, names[start : start + config.batch_size], left_out)
        if not found:
            continue
        pairs = list(found.values())
        seeds = [config.seed + start + offset for offset in found]
        predictions = _predictions(pipe, pairs, seeds, config, geometry_estimator)
        methods = tuple(predictions)
        measured = measure(predictions, pairs, metrics)
        found_features.add(predictions, pairs)
        for row, (offset, pair) in enumerate(found.items()):
            scores.append(PairScore(pair.name, measured[row]))
            if start + offset in shown[pair.name.motion_class]:
                images = [pair.input_view.image, pair.target_view.image]
                images += [predictions[method][row] for method in methods if method != COPY]
                sheets[pair.name.motion_class].append(torch.stack(images))
        done = min(start + config.batch_size, len(names))
        progress(ProgressEvent("evaluate views", done, len(names)))
    if not scores:
        raise InputError(f"none of the {len(names)} pairs can be measured: {left_out[0].reason}")
    return ViewsEvaluation(
        config,
        tuple(scores),
        methods,
        metric_names(metrics, features),
        dict(sheets),
        tuple(left_out),
        found_features.distances(),
        data.notes,
    )


def metric_names(metrics: ImageMetrics, features: ImageFeatures | None) -> tuple[str, ...]:
    """Return the columns of the table."""
    return (*metrics.names, *([KID] if features is not None else []))


class Features:
    """Features of all views, by class of motion and method, for the kernel distance."""

    def __init__(self, network: ImageFeatures | None) -> None:
        self.network = network
        self.found: dict[tuple[str, str], list[Tensor]] = defaultdict(list)

    def add(
        self, predictions: dict[str, Float[Tensor, "b 3 h w"]], pairs: Sequence[HeldOutPair]
    ) -> None:
        """Add every method's views of some pairs, and the true ones."""
        if self.network is None:
            return
        truth = torch.stack([pair.target_view.image for pair in pairs])
        for method, images in [*predictions.items(), (TRUTH, truth)]:
            for pair, features in zip(pairs, self.network(images), strict=True):
                self.found[pair.name.motion_class, method].append(features)

    def distances(self) -> dict[tuple[str, str], float]:
        """Return the kernel distance to the true views, by class of motion and method."""
        return {
            (label, method): kernel_distance(
                torch.stack(own), torch.stack(self.found[label, TRUTH])
            )
            for (label, method), own in self.found.items()
            if method != TRUTH
        }


def read_pairs(
    reader: PairReader, names: Sequence[PairName], left_out: list[LeftOut]
) -> dict[int, HeldOutPair]:
    """Return the pairs that can be read, by their place among the names; note the others."""
    found = {}
    for offset, name in enumerate(names):
        try:
            found[offset] = reader.pair(name)
        except InputError as error:
            left_out.append(LeftOut(name, str(error)))
    return found


def with_defaults(config: Config, usual: SamplingDefaults) -> Config:
    """Return the settings with those of sampling filled in that were left to the model."""
    missing = {key: value for key, value in usual._asdict().items() if getattr(config, key) is None}
    return replace(config, **missing)


def spread(names: Sequence[PairName], label: str, count: int) -> set[int]:
    """Return the places of so many pairs of a class, spread evenly."""
    indices = [index for index, name in enumerate(names) if name.motion_class == label]
    count = min(count, len(indices))
    return {indices[index * len(indices) // count] for index in range(count)}


def _predictions(
    pipe: ZeroNVSPipeline | None,
    pairs: Sequence[HeldOutPair],
    seeds: list[int],
    config: ViewsEvaluationConfig,
    geometry_estimator: GeometryEstimator | None,
) -> dict[str, Float[Tensor, "b 3 h w"]]:
    """Return every method's views of a batch of pairs, in the order of the table."""
    cameras = Camera.stack([pair.target_view.camera for pair in pairs])
    views = View.stack([pair.input_view for pair in pairs])
    predictions: dict[str, Tensor] = {}
    if pipe is not None:
        scale = torch.tensor([pair.scene_scale for pair in pairs])
        predictions |= sample_views(pipe, views, cameras, scale, seeds, config, geometry_estimator)
    predictions |= warped_input(views, cameras)
    return predictions | {COPY: views.image}


def sample_views(
    pipe: ZeroNVSPipeline,
    views: View,
    cameras: Camera,
    scene_scale: Float[Tensor, " b"],
    seeds: list[int],
    config: ViewsEvaluationConfig,
    geometry_estimator: GeometryEstimator | None,
) -> dict[str, Float[Tensor, "b 3 s s"]]:
    """Return the model's views of a batch of pairs, as large as the (square) cameras' images.

    Args:
        pipe: The model.
        views: Inputs, with depth.
        cameras: The targets.
        scene_scale: Scene units per model unit, > 0.
        seeds: One for each pair.
        config: Settings.
        geometry_estimator: Predicts the depth that the model is given; None: that of the views.
    """

    def ours(view: View) -> Tensor:
        images = pipe.sample(
            pipe.encode(view, scene_scale, geometry_estimator),
            cameras,
            seeds,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            eta=config.eta,
            batch_size=len(seeds),
        )
        return resize_image(images.cpu(), cameras.image_size_px).clamp(0, 1)

    without_depth = View(views.image, views.camera)
    predictions = {OURS: ours(without_depth if geometry_estimator is not None else views)}
    if config.given_depth and pipe.conditioning.needs_depth:
        predictions[OURS_GIVEN_DEPTH] = ours(views)
    return predictions


def measure(
    predictions: dict[str, Float[Tensor, "b 3 h w"]],
    pairs: Sequence[HeldOutPair],
    metrics: ImageMetrics,
) -> list[dict[str, dict[str, float]]]:
    """Return method -> metric -> value for each pair."""
    truth = metrics.prepare(torch.stack([pair.target_view.image for pair in pairs]))
    columns = {method: metrics.measure(images, truth) for method, images in predictions.items()}
    return [
        {
            method: {metric: float(values[index]) for metric, values in column.items()}
            for method, column in columns.items()
        }
        for index in range(len(pairs))
    ]
