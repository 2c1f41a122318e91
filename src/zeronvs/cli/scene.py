"""`zeronvs scene`: from one photograph to a finished run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zeronvs.cli.arguments import (
    Count,
    PhotoArguments,
    check_anchors,
    check_counts,
    check_device,
    check_new_folder,
    check_sampling,
    parse,
)

if TYPE_CHECKING:
    from zeronvs.diffusion.pipeline import ZeroNVSPipeline
    from zeronvs.recipes.presets import Recipe


@dataclass(frozen=True, kw_only=True)
class SceneArguments(PhotoArguments):
    """Make a walkable 360-degree scene of one photograph: views, videos, splats and a mesh."""

    preset: Literal["preview", "fast", "paper"] | None = None
    """preview: minutes on a processor. fast: for one GPU. paper: the published recipe.
    If not given: fast where there is a GPU, else preview."""
    anchors: Count = None
    """Views sampled around the scene to hold it together; 0 is plain score distillation."""
    steps: Count = None
    """Steps of distillation; the preset's if not given."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and make the scene."""
    arguments = parse(SceneArguments, words, "scene")
    check_counts(steps=arguments.steps)
    check_anchors(arguments.anchors)
    check_sampling(seed=arguments.seed, guidance_scale=arguments.guidance_scale)
    if not arguments.dry_run:
        check_new_folder(arguments.out, resume=arguments.resume)
    check_device(arguments.device)
    from zeronvs.cli.report import print_result, print_settings, progress_bar
    from zeronvs.cli.resolve import resolve
    from zeronvs.recipes.write_run import write_scene_run

    photo, pipe, rows = resolve(arguments)
    recipe, recipe_rows = _recipe(arguments, pipe)
    rows += recipe_rows
    print_settings(rows)
    if arguments.dry_run:
        return
    with progress_bar() as progress:
        result = write_scene_run(
            photo,
            pipe,
            recipe,
            arguments.out,
            seed=arguments.seed or 0,
            rows=rows,
            resume=arguments.resume,
            progress=progress,
        )
    print_result(result)


def _recipe(
    arguments: SceneArguments, pipe: "ZeroNVSPipeline"
) -> tuple["Recipe", list[tuple[str, Any, str]]]:
    """Return the recipe with the given settings, and where each of its settings comes from."""
    from zeronvs.cli.resolve import source
    from zeronvs.recipes.presets import PRESETS

    device = pipe.device.type
    name = arguments.preset or ("preview" if device == "cpu" else "fast")
    recipe = PRESETS[name].with_settings(steps=arguments.steps, anchors=arguments.anchors)
    recipe = recipe.fitted_to(pipe, guidance_scale=arguments.guidance_scale)
    distill, of_preset = recipe.distill, f"preset {name}"
    rows = [
        ("preset", name, source(arguments.preset, f"for {device}")),
        ("steps", distill.steps, source(arguments.steps, of_preset)),
        ("anchors", distill.anchors.count, source(arguments.anchors, of_preset)),
    ]
    if distill.uses_sds:
        of_kind = pipe.conditioning.sds_guidance_scale is not None
        default = "this kind of model" if of_kind else of_preset
        rows.append(
            ("guidance_scale", distill.guidance_scale, source(arguments.guidance_scale, default))
        )
    return recipe, rows
