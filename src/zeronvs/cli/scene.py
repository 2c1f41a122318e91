"""`zeronvs scene`: from one photograph to a finished run folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import (
    Count,
    PhotoArguments,
    Photos,
    check_anchors,
    check_counts,
    check_device,
    check_new_folder,
    check_sampling,
    parse,
)

if TYPE_CHECKING:
    from zeronvs.cli.resolve import Estimators, Row
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.recipes.presets import LiftRecipe, Recipe
    from zeronvs.recipes.summary import Made


@dataclass(frozen=True, kw_only=True)
class SceneArguments(PhotoArguments):
    """Make a walkable 360-degree scene of one photograph: a page, videos, views and splats."""

    photo: Photos
    """The photograph, in any common format; of a folder, every photograph in it."""

    preset: Literal["preview", "field", "fast", "paper"] | None = None
    """preview: splats of the photograph's own pixels, about a minute on a processor. field: a
    small radiance field, for a processor. fast: for one GPU. paper: the published recipe.
    If not given: preview with the built-in model, fast with another."""
    draft: bool = False
    """The preview in a third of the time, smaller and softer."""
    resolution: Count = None
    """Longer side at which the photograph is used, in pixels; 1024 if not given."""
    path: Literal["orbit", "around"] | None = None
    """orbit: about what is ahead. around: turn where the photographer stood. Whichever suits the
    photograph, if not given."""
    anchors: Count = None
    """Views sampled around the scene to hold it together; 0 is plain score distillation."""
    steps: Count = None
    """Steps of distillation; the preset's if not given."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and make the scene, or those of a folder."""
    arguments = parse(SceneArguments, words, "scene")
    check_counts(steps=arguments.steps, resolution=arguments.resolution)
    check_anchors(arguments.anchors)
    check_sampling(seed=arguments.seed, guidance_scale=arguments.guidance_scale)
    if not arguments.dry_run:
        check_new_folder(arguments.out, resume=arguments.resume)
    from zeronvs.cli.resolve import check_model, resolve_estimators, resolve_model

    check_model(arguments.model)
    check_device(arguments.device)
    from zeronvs.recipes.presets import Recipe

    name, recipe = _recipe(arguments)
    estimators = cache(lambda: resolve_estimators(arguments))
    model = cache(lambda: resolve_model(arguments))

    def make(photo: Path, out: Path) -> "Made":
        return _make(replace(arguments, photo=photo, out=out), name, recipe, estimators, model)

    if not arguments.photo.is_dir():
        make(arguments.photo, arguments.out)
        return
    from zeronvs.cli.batch import run_batch

    estimators()  # what cannot be loaded is no fault of a photograph
    if isinstance(recipe, Recipe):
        model()
    run_batch(
        arguments.photo,
        arguments.out,
        make,
        words=["scene", *words],
        writes=not arguments.dry_run,
    )


def _recipe(arguments: SceneArguments) -> tuple[str, "LiftRecipe | Recipe"]:
    """Return the preset's name and its recipe.

    Raises:
        InputError: A flag does not belong to the preset.
    """
    from zeronvs.recipes.presets import DRAFT, PRESETS, Recipe

    name = arguments.preset or ("fast" if arguments.model not in (None, "builtin") else "preview")
    recipe = PRESETS[name]
    if isinstance(recipe, Recipe):
        if arguments.draft:
            raise InputError(f"--draft is of the preview; the preset is {name}")
        return name, recipe
    _refuse_model_settings(arguments)
    return name, DRAFT if arguments.draft else recipe


def _make(
    arguments: SceneArguments,
    name: str,
    recipe: "LiftRecipe | Recipe",
    estimators: Callable[[], "Estimators"],
    model: Callable[[], tuple["ZeroNVSPipeline", list["Row"]]],
) -> "Made":
    """Make the scene of one photograph."""
    from zeronvs.cli.report import print_result, print_settings, progress_bar
    from zeronvs.cli.resolve import resolve_photo, resolve_run, source
    from zeronvs.recipes.far_path import PathChoice, suggest_path
    from zeronvs.recipes.prepare import RESOLUTION_PX
    from zeronvs.recipes.presets import Recipe
    from zeronvs.recipes.summary import Made
    from zeronvs.recipes.write_run import write_scene_run

    photo, photo_rows = resolve_photo(
        arguments, max_side_px=arguments.resolution or RESOLUTION_PX, estimators=estimators
    )
    rows = [
        ("preset", name, source(arguments.preset, "for the built-in model")),
        ("resolution", max(photo.view.camera.image_size_px), source(arguments.resolution, "photo")),
        *resolve_run(arguments),
        *photo_rows,
    ]
    pipe = None
    if isinstance(recipe, Recipe):
        pipe, model_rows = model()
        recipe, recipe_rows = _with_settings(arguments, name, recipe, pipe)
        rows += model_rows + recipe_rows
    choice = PathChoice("orbit", "viewpoints of the field") if pipe else suggest_path(photo.view)
    path = arguments.path or choice.name
    rows.append(("path", path, source(arguments.path, choice.reason)))
    print_settings(rows)
    if arguments.dry_run:
        return Made(photo.estimates, photo.notes, None, ())
    with progress_bar() as progress:
        result = write_scene_run(
            photo,
            pipe,
            recipe,
            arguments.out,
            path=path,
            seed=arguments.seed or 0,
            rows=rows,
            title=arguments.photo.stem,
            resume=arguments.resume,
            progress=progress,
        )
    print_result(result)
    return Made(
        photo.estimates, tuple(result.notes), arguments.out / "input.png", tuple(result.files)
    )


def _refuse_model_settings(arguments: SceneArguments) -> None:
    """Refuse settings of a diffusion model, which the preview does not use.

    Raises:
        InputError: One is given.
    """
    for name in ("model", "steps", "anchors", "guidance_scale"):
        if getattr(arguments, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} is a setting of score distillation, and the preset "
                "preview has none; use --preset field, fast or paper"
            )


def _with_settings(
    arguments: SceneArguments, name: str, recipe: "Recipe", pipe: "ZeroNVSPipeline"
) -> tuple["Recipe", list[tuple[str, Any, str]]]:
    """Return the recipe with the given settings, and where each of its settings comes from."""
    from zeronvs.cli.resolve import source

    recipe = recipe.with_settings(steps=arguments.steps, anchors=arguments.anchors)
    recipe = recipe.fitted_to(pipe, guidance_scale=arguments.guidance_scale)
    distill, of_preset = recipe.distill, f"preset {name}"
    rows: list[tuple[str, Any, str]] = [
        ("steps", distill.steps, source(arguments.steps, of_preset)),
        ("anchors", distill.anchors.count, source(arguments.anchors, of_preset)),
    ]
    if distill.uses_model:
        refresh = None if distill.uses_sds else distill.refresh
        used = (refresh or distill).guidance_scale
        of_kind = pipe.conditioning.sds_guidance_scale is not None
        default = "this kind of model" if of_kind else of_preset
        rows.append(("guidance_scale", used, source(arguments.guidance_scale, default)))
    return recipe, rows
