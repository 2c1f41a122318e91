"""From one view to a 360-degree scene. Read this file first.

    View (image, camera, depth) -> splats                                       (preview)
    View (image, camera, depth) -> views sampled around it -> radiance field    (the other presets)

`reconstruct` takes values and returns a value: a view, a model and a recipe become a scene. Files
come before it (`prepare.prepare_photo`) and after it (`write_run`, `export.export`).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.depth.builtin import load_builtin_depth
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation import health
from zeronvs.distillation.loop import distill
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.distillation.surround import SurroundConfig, sample_surround
from zeronvs.distillation.view_files import load_supervised, save_supervised
from zeronvs.protocols import GeometryEstimator, Scene
from zeronvs.recipes.far_path import suggest_path
from zeronvs.recipes.presets import PRESETS, LiftRecipe, PresetName, Recipe
from zeronvs.scene.lift import lift_view
from zeronvs.scene.splat_scene import SplatScene


def reconstruct(
    view: View,
    pipe: ZeroNVSPipeline | None,
    recipe: LiftRecipe | Recipe | PresetName = "preview",
    *,
    scene_scale: float,
    geometry_estimator: GeometryEstimator | None = None,
    run_dir: Path | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress = silent,
) -> Scene:
    """Make a 360-degree scene of one view.

    Args:
        view: One view at the canonical camera (azimuth 0, looking at the world's origin), with
            depth where the recipe or the model needs it. A radiance field is made of its central
            square, at the model's size; splats are made of all of it.
        pipe: The diffusion model; its device is where the scene is made. None where the recipe
            needs none.
        recipe: A recipe, used as it is, or the name of a preset, which is fitted to the model.
        scene_scale: Scene units per model unit (the paper's q), > 0.
        geometry_estimator: Predicts the depth of sampled views and anchors; None: the built-in
            network.
        run_dir: Where sampled views, checkpoints and the log are kept, so that a stopped run can
            be resumed; None: a temporary folder.
        seed: All randomness follows from it.
        resume: Continue from what `run_dir` holds.
        progress: Called at every step; raising `Cancelled` there ends the run.

    Raises:
        InputError: The view or `run_dir` cannot be used.
        HealthError: The run went wrong in a way that makes its result useless.
    """
    if isinstance(recipe, str):
        preset = PRESETS[recipe]
        recipe = preset.fitted_to(pipe) if isinstance(preset, Recipe) and pipe else preset
    if isinstance(recipe, LiftRecipe):
        _check_liftable(view)
        enclosed = suggest_path(view).name == "around"
        splats = lift_view(view, recipe.lift, enclosed=enclosed, seed=seed, progress=progress)
        return SplatScene(splats, float(view.camera.intrinsics_px[1, 1]))
    if pipe is None:
        raise InputError("this recipe needs a diffusion model", argument="pipe")
    input_view = model_view(view, pipe)
    wants_depth = pipe.conditioning.needs_depth or recipe.surround is not None
    if wants_depth and geometry_estimator is None:
        geometry_estimator = load_builtin_depth(device=pipe.device)
    with _folder(run_dir) as folder:
        supervised = None
        if recipe.surround is not None:
            supervised = _sample_around(
                pipe,
                input_view,
                scene_scale,
                recipe.surround,
                geometry_estimator,
                folder=folder / "sampled",
                seed=seed,
                resume=resume,
                progress=progress,
            )
        return distill(
            pipe,
            input_view,
            float(input_view.camera.elevation_rad),
            scene_scale,
            recipe.distill,
            run_dir=folder,
            seed=seed,
            device=pipe.device,
            supervised=supervised,
            geometry_estimator=geometry_estimator,
            progress=progress,
            resume=resume,
        )


def model_view(view: View, pipe: ZeroNVSPipeline) -> View:
    """Return the central square of a view at the model's size.

    Raises:
        InputError: It is a batch, its camera is not canonical, or the model needs depth.
    """
    if view.camera.batch_shape:
        raise InputError(f"one view is needed, not a batch of {len(view)}", argument="view")
    _check_canonical(view.camera)
    if pipe.conditioning.needs_depth and view.depth_z is None:
        raise InputError(
            "this model warps the input along its depth, and the view has none; prepare_photo adds "
            "it",
            argument="view",
        )
    return view.center_square().resized(pipe.image_size_px, pipe.image_size_px, "bicubic")


def _check_liftable(view: View) -> None:
    """Refuse what cannot be lifted to splats."""
    if view.camera.batch_shape:
        raise InputError(f"one view is needed, not a batch of {len(view)}", argument="view")
    _check_canonical(view.camera)
    if view.depth_z is None or not bool((view.depth_z > 0).all()):
        raise InputError("it needs depth at every pixel; prepare_photo adds it", argument="view")


def _check_canonical(camera: Camera) -> None:
    """Refuse a camera that is not at azimuth 0 or does not look at the world's origin."""
    position = camera.position.double()
    distance = float(position.norm())
    axis = -camera.camera_to_world[:3, 2].double()
    misses = distance == 0 or float((position / distance + axis).norm()) > 1e-3
    azimuth_rad = math.atan2(float(position[1]), float(position[0]))
    if misses or abs(azimuth_rad) > 1e-3:
        raise InputError(
            f"its camera is at {[round(float(x), 3) for x in position]} and must look at the "
            "world's origin from azimuth 0; prepare_photo or orbit_pose make such a camera",
            argument="view",
        )


def _sample_around(
    pipe: ZeroNVSPipeline,
    input_view: View,
    scene_scale: float,
    config: SurroundConfig,
    geometry_estimator: GeometryEstimator | None,
    *,
    folder: Path,
    seed: int,
    resume: bool,
    progress: Progress,
) -> SupervisedViews:
    """Sample the views around the scene, or read those that a stopped run has finished."""
    kept = load_supervised(folder) if resume else None
    if kept is not None and len(kept.views) == config.count:
        return kept
    sampled = sample_surround(
        pipe,
        input_view,
        scene_scale,
        config,
        geometry_estimator=geometry_estimator,
        seed=seed,
        folder=folder,
        resume=resume,
        progress=progress,
    )
    health.raise_errors(health.check_images(sampled.views.image, "the sampled views"))
    save_supervised(folder, sampled)
    return sampled


@contextmanager
def _folder(run_dir: Path | None) -> Iterator[Path]:
    """Yield the run folder, or a temporary one."""
    if run_dir is not None:
        yield run_dir
        return
    with TemporaryDirectory(prefix="zeronvs-") as folder:
        yield Path(folder)
