"""`zeronvs scene`: from one photograph to a finished run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    from zeronvs.recipes.reconstruct import SceneSettings, reconstruct, resolve

    settings = SceneSettings(
        **arguments.settings(),
        preset=arguments.preset,
        anchors=arguments.anchors,
        steps=arguments.steps,
    )
    if arguments.dry_run:
        print_settings(resolve(settings).rows)
        return
    with progress_bar() as progress:
        result = reconstruct(settings, progress)
    print_result(result)
