"""Figure 7 of the paper: PSNR and SSIM prefer blur to a sensible view that is misaligned.

Nothing is predicted here: the true view is blurred, or moved by a few pixels, or replaced by the
mean colour of the input, and the input is warped to it. Only the warp can err in more than place.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.warp import fill_holes, forward_warp
from zeronvs.evaluation.held_out import HeldOutPair, HeldOutScenes, motion_classes, read_pair_names
from zeronvs.evaluation.image_metrics import ImageMetrics, better
from zeronvs.evaluation.metrics import WARP
from zeronvs.evaluation.views import (
    LeftOut,
    PairScore,
    ViewsEvaluation,
    ViewsEvaluationConfig,
    measure,
    metric_names,
    read_pairs,
    spread,
)
from zeronvs.protocols import GeometryEstimator

BLUR = "truth, blurred"
MEAN = "mean colour of the input"
SHIFT = "truth, shifted"
METHODS = (BLUR, MEAN, SHIFT, WARP)
PUBLISHED = (
    "Published, one example: a misaligned view 10.8 dB and .22, a blurred one 12.2 dB and .30."
)


@dataclass(frozen=True, kw_only=True)
class Figure7Config(ViewsEvaluationConfig):
    """How the true views are spoilt."""

    blur_share: float = 0.03
    """Standard deviation of the blur, of the image's side."""
    shift_share: float = 0.03
    """Shift to the right and down, of the image's side."""


@torch.no_grad()
def evaluate_figure7(
    folder: Path,
    metrics: ImageMetrics,
    config: Figure7Config,
    *,
    geometry_estimator: GeometryEstimator | None = None,
    progress: Progress = silent,
) -> ViewsEvaluation:
    """Measure blurred and misaligned views of every pair of a folder of posed scenes.

    Args:
        folder: Posed scenes and their `pairs.json`.
        metrics: What is measured.
        config: How the true views are spoilt.
        geometry_estimator: As of `HeldOutScenes`.
        progress: Called after some pairs.

    Raises:
        InputError: The list of pairs cannot be read, or none of its pairs.
    """
    names = read_pair_names(folder, config.limit)
    scenes = HeldOutScenes(folder, config.size_px, geometry_estimator)
    shown = {label: spread(names, label, config.sheet_rows) for label in motion_classes(names)}
    scores: list[PairScore] = []
    sheets: dict[str, list[Tensor]] = defaultdict(list)
    left_out: list[LeftOut] = []
    for start in range(0, len(names), config.batch_size):
        found = read_pairs(scenes, names[start : start + config.batch_size], left_out)
        for offset, pair in found.items():
            views = spoilt_views(pair, config)
            (values,) = measure(views, [pair], metrics)
            scores.append(PairScore(pair.name, values))
            if start + offset in shown[pair.name.motion_class]:
                images = [pair.input_view.image, pair.target_view.image]
                images += [views[method][0] for method in METHODS]
                sheets[pair.name.motion_class].append(torch.stack(images))
        done = min(start + config.batch_size, len(names))
        progress(ProgressEvent("evaluate fig7", done, len(names)))
    if not scores:
        raise InputError(f"none of the {len(names)} pairs can be measured: {left_out[0].reason}")
    columns = metric_names(metrics, None)
    return ViewsEvaluation(config, tuple(scores), METHODS, columns, dict(sheets), tuple(left_out))


def spoilt_views(pair: HeldOutPair, config: Figure7Config) -> dict[str, Float[Tensor, "b 3 h w"]]:
    """Return the views that are measured, one of each method."""
    truth, source = pair.target_view.image, pair.input_view
    side_px = max(truth.shape[1:])
    warped, validity = forward_warp(source.batched(), pair.target_view.camera.batched())
    mean = source.image.mean((1, 2), keepdim=True).expand_as(truth)
    return {
        BLUR: blurred(truth, config.blur_share * side_px)[None],
        MEAN: mean[None],
        SHIFT: shifted(truth, round(config.shift_share * side_px))[None],
        WARP: fill_holes(warped * validity, validity),
    }


def blurred(image: Float[Tensor, "3 h w"], sigma_px: float) -> Float[Tensor, "3 h w"]:
    """Return the image through a Gaussian; its border is continued."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(image.numpy(), (0, sigma_px, sigma_px), mode="nearest"))


def shifted(image: Float[Tensor, "3 h w"], shift_px: int) -> Float[Tensor, "3 h w"]:
    """Return the image moved to the right and down; its border is continued."""
    rows, columns = (
        (torch.arange(side) - shift_px).clamp_min(0) for side in (image.shape[1], image.shape[2])
    )
    return image[:, rows][:, :, columns]


def ordering_notes(evaluation: ViewsEvaluation) -> list[str]:
    """Return what each metric prefers, in words."""
    count = len(evaluation.pairs)
    lines = []
    for metric in evaluation.metrics:
        sign = 1 if better(metric) == "higher" else -1
        mean = {
            method: _mean([pair.scores[method][metric] for pair in evaluation.pairs])
            for method in evaluation.methods
        }
        order = sorted(mean, key=mean.__getitem__, reverse=sign > 0)
        wins = sum(
            sign * (pair.scores[BLUR][metric] - pair.scores[SHIFT][metric]) > 0
            for pair in evaluation.pairs
        )
        lines.append(
            f"{metric} prefers the blurred truth to the shifted one in {wins} of {count} pairs; "
            f"from best to worst: {'; '.join(order)}."
        )
    return [*lines, PUBLISHED]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
