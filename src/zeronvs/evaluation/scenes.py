"""Evaluation of scenes made of one view: their renderings at held-out cameras beside it."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera, center_window
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View, resize_image
from zeronvs.cameras.warp import fill_nearest
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.evaluation.held_out import (
    HeldOutPair,
    PairName,
    motion_classes,
)
from zeronvs.evaluation.image_metrics import ImageMetrics
from zeronvs.evaluation.lpips import Lpips
from zeronvs.evaluation.metrics import (
    WARP,
    WARP_TEXTURE,
    ImageFeatures,
    psnr,
    warped_input,
)
from zeronvs.evaluation.protocols.published_pairs import open_pairs
from zeronvs.evaluation.views import (
    COPY,
    OURS,
    Features,
    LeftOut,
    PairScore,
    ViewsEvaluation,
    ViewsEvaluationConfig,
    measure,
    metric_names,
    read_pairs,
    sample_views,
    spread,
    with_defaults,
)
from zeronvs.formats.images import from_bytes, write_image
from zeronvs.formats.video import to_bytes
from zeronvs.perceptual import PerceptualDistance
from zeronvs.photo.estimates import estimate_elevation, estimate_scene_scale
from zeronvs.photo.verticals import tilt_of_verticals
from zeronvs.protocols import GeometryEstimator
from zeronvs.scene.lift import LiftConfig, lift_view
from zeronvs.scene.splat_scene import SplatScene

SCENE = "scene of splats"
VIEWS = "views of the model"


@dataclass(frozen=True, kw_only=True)
class ScenesEvaluationConfig(ViewsEvaluationConfig):
    """Settings of one evaluation."""

    whole_frames: bool = False
    """Whole frames are measured, not their central squares; a model, whose views are square, cannot
    be beside them."""
    lift: LiftConfig = field(default_factory=LiftConfig)


@dataclass(frozen=True, eq=False)
class ScenesEvaluation(ViewsEvaluation):
    """Scores of all pairs; the inputs at their cameras."""

    input_psnr_db: dict[str, float] = field(default_factory=dict)
    """Input -> PSNR of its scene, rendered at its own camera and size."""

    @property
    def resolution(self) -> str:
        """Width x height of the images that are measured, pixels."""
        if isinstance(self.config, ScenesEvaluationConfig) and self.config.whole_frames:
            return f"whole frames, shorter side {self.config.size_px}"
        return super().resolution

    def notes(self) -> list[str]:
        """Return lines for a report."""
        values = list(self.input_psnr_db.values())
        return [
            *super().notes(),
            f"Scenes rendered at their inputs' own cameras, at their own size: "
            f"{sum(values) / len(values):.2f} dB PSNR, the mean over {len(values)} inputs.",
        ]


@torch.no_grad()
def evaluate_scenes(
    folder: Path,
    config: ScenesEvaluationConfig,
    *,
    perceptual: PerceptualDistance | None = None,
    lpips: Sequence[Lpips] = (),
    features: ImageFeatures | None = None,
    pipe: ZeroNVSPipeline | None = None,
    geometry_estimator: GeometryEstimator | None = None,
    kept: Path | None = None,
    split: Path | None = None,
    progress: Progress = silent,
) -> ScenesEvaluation:
    """Make a scene of the input of every pair, and measure its rendering at the target.

    Scene and depth are those of the pair (see `open_pairs`), with its scale: only what is seen
    is measured, not how well the scale of the world is guessed.

    Args:
        folder: Posed scenes and their pairs (see `open_pairs`).
        config: Settings.
        perceptual: ST-LPIPS; None leaves its column out.
        lpips: LPIPS, a column each.
        features: For the kernel distance; None leaves its column out.
        pipe: A diffusion model, for a row of its views; of central squares only.
        geometry_estimator: Predicts the depth that the model is given, and that of frames that come
            without a disparity.
        kept: Where renderings are kept, for a later call to take them from; None: nowhere.
        split: pixelSplat's evaluation index, where the folder holds its chunks.
        progress: Called after every pair.

    Raises:
        InputError: The list of pairs cannot be read, or none of its pairs, or a model is given for
            whole frames.
    """
    if pipe is not None and config.whole_frames:
        raise InputError(
            "whole frames have no row of a model, whose views are square: leave out one of the two",
            argument="whole_frames",
        )
    if pipe is not None:
        config = with_defaults(config, pipe.conditioning.sampling_defaults)
    data = open_pairs(
        folder,
        config.size_px,
        geometry_estimator,
        whole=config.whole_frames,
        limit=config.limit,
        split=split,
    )
    names = data.names
    shown = {label: spread(names, label, config.sheet_rows) for label in motion_classes(names)}
    renders = _Renders(config, kept)
    scores: list[PairScore] = []
    left_out: list[LeftOut] = []
    sheets, found_features = defaultdict(list), Features(features)
    input_psnr_db: dict[str, float] = {}
    methods: tuple[str, ...] = ()
    metrics = ImageMetrics(perceptual=perceptual, lpips=tuple(lpips))
    for index, name in enumerate(names):
        for pair in read_pairs(data.reader, [name], left_out).values():
            rendered, own = renders.of(pair)
            predictions = {SCENE: rendered[None]}
            predictions |= _others(pair, config, config.seed + index, pipe, geometry_estimator)
            methods = tuple(predictions)
            scores.append(PairScore(name, measure(predictions, [pair], metrics)[0]))
            own_db = float(psnr(own[None], pair.input_view.image[None]))
            input_psnr_db[f"{name.scene}/{name.input}"] = own_db
            found_features.add(predictions, [pair])
            if index in shown[name.motion_class]:
                images = [pair.input_view.image, pair.target_view.image]
                images += [predictions[method][0] for method in methods if method != COPY]
                sheets[name.motion_class].append(_squares(images, config.size_px))
        progress(ProgressEvent("evaluate scenes", index + 1, len(names)))
    if not scores:
        raise InputError(f"none of the {len(names)} pairs can be measured: {left_out[0].reason}")
    return ScenesEvaluation(
        config,
        tuple(scores),
        methods,
        metric_names(metrics, features),
        dict(sheets),
        tuple(left_out),
        found_features.distances(),
        data.notes,
        input_psnr_db,
    )


def _others(
    pair: HeldOutPair,
    config: ScenesEvaluationConfig,
    seed: int,
    pipe: ZeroNVSPipeline | None,
    geometry_estimator: GeometryEstimator | None,
) -> dict[str, Float[Tensor, "1 3 h w"]]:
    """Return the other methods' views of a pair, in the order of the table."""
    view, camera = pair.input_view.batched(), pair.target_view.camera.batched()
    views = {}
    if pipe is not None:
        scale = torch.tensor([pair.scene_scale])
        ours = sample_views(pipe, view, camera, scale, [seed], config, geometry_estimator)
        views[VIEWS] = ours[OURS]
    warped = warped_input(view, camera, seed=seed)
    views |= {method: warped[method] for method in (WARP_TEXTURE, WARP)}
    views[COPY] = resize_image(view.image, camera.image_size_px).clamp(0, 1)
    return views


class _Renders:
    """Renderings of scenes, each made once."""

    def __init__(self, config: ScenesEvaluationConfig, kept: Path | None) -> None:
        self.config, self.kept = config, kept
        self._made: tuple[str, SplatScene] | None = None

    def of(self, pair: HeldOutPair) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h2 w2"]]:
        """Return what the scene of a pair's input shows at the target, and at the input."""
        at_target, at_input = (path for path in self._paths(pair.name))
        if at_target is not None and at_input is not None:
            if not (at_target.is_file() and at_input.is_file()):
                target, own = self._render(pair)
                write_image(at_target, target)
                write_image(at_input, own)
            return _read(at_target), _read(at_input)
        target, own = (to_bytes(image).float() / 255 for image in self._render(pair))
        return target, own

    def _paths(self, name: PairName) -> Iterator[Path | None]:
        stems = [Path(file).stem for file in (name.input, name.target)]
        for file in (f"{name.scene}_{stems[0]}_{stems[1]}.png", f"{name.scene}_{stems[0]}.png"):
            yield None if self.kept is None else self.kept / file

    def _render(self, pair: HeldOutPair) -> tuple[Tensor, Tensor]:
        view, target = canonical_pair(pair)
        key = f"{pair.name.scene}/{pair.name.input}"
        if self._made is None or self._made[0] != key:
            splats = lift_view(view, self.config.lift, seed=self.config.seed)
            self._made = (key, SplatScene(splats, float(view.camera.intrinsics_px[1, 1])))
        grey = torch.full((3,), 0.5)
        target_image, own = (
            self._made[1].render(camera.batched(), background=grey).rgb[0]
            for camera in (target, view.camera)
        )
        return target_image, own


def canonical_pair(pair: HeldOutPair) -> tuple[View, Camera]:
    """Return input and target in the world of a photograph's scene: z up, the input at distance 1.

    A photograph knows no world: elevation and the depth of its centre are estimated from its depth,
    as for any photograph; the target keeps its pose beside it.
    """
    view, target = pair.input_view, pair.target_view.camera
    assert view.depth_z is not None
    known = (view.depth_z > 0)[None, None].float()
    disparity = fill_nearest(1.0 / view.depth_z.clamp_min(1e-6)[None, None], known)[0, 0]
    square = View(view.image, view.camera, 1.0 / disparity).center_square()
    assert square.depth_z is not None
    focal_px, side_px = float(square.camera.intrinsics_px[1, 1]), square.depth_z.shape[0]
    verticals = tilt_of_verticals(square.image, focal_px)
    elevation = estimate_elevation(
        2 * math.atan(0.5 * side_px / focal_px), square.depth_z, verticals
    )
    # Scene units of the pair over those of the photograph's scene.
    unit = pair.scene_scale / estimate_scene_scale(square.depth_z / pair.scene_scale).value
    pose = orbit_pose(torch.tensor(0.0), torch.tensor(elevation.value), torch.tensor(1.0))
    beside = torch.linalg.inv(view.camera.camera_to_world) @ target.camera_to_world
    beside[:3, 3] /= unit
    camera = Camera(pose, view.camera.intrinsics_px, view.camera.image_size_px)
    moved = Camera(pose @ beside, target.intrinsics_px, target.image_size_px)
    return View(view.image, camera, 1.0 / (disparity * unit)), moved


def _read(path: Path) -> Float[Tensor, "3 h w"]:
    with Image.open(path) as image:
        return from_bytes(np.array(image.convert("RGB")))


def _squares(images: list[Tensor], size_px: int) -> Float[Tensor, "n 3 s s"]:
    """Return the central squares of images, for a sheet."""
    squares = [image[:, *center_window(*image.shape[-2:])] for image in images]
    return torch.stack([resize_image(square, (size_px, size_px)).clamp(0, 1) for square in squares])
