"""`zeronvs scene`: from one photograph to a finished run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zeronvs.cli.arguments import (
    Count,
    Degrees,
    Device,
    Number,
    check_anchors,
    check_counts,
    check_device,
    check_new_folder,
    check_sampling,
    parse,
    radians,
)


@dataclass(frozen=True, kw_only=True)
class SceneArguments:
    """Make a walkable 360-degree scene of one photograph: views, videos, splats and a mesh."""

    photo: tyro.conf.Positional[Path]
    """The photograph, in any common format."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The run folder to make."""
    preset: Literal["preview", "fast", "paper"] | None = None
    """preview: minutes on a processor. fast: for one GPU. paper: the published recipe.
    If not given: fast where there is a GPU, else preview."""
    model: str = "builtin"
    """builtin, a folder, or a hub id."""
    anchors: Count = None
    """Views sampled around the scene to hold it together; 0 is plain score distillation."""
    seed: int = 0
    """The same seed gives the same scene."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""
    resume: bool = False
    """Go on with the run in the folder, where it was stopped."""
    fov_deg: Degrees = None
    """Vertical field of view of the photograph's centre square; estimated if not given."""
    elevation_deg: Degrees = None
    """Height angle of the camera over what it looks at; estimated if not given."""
    scene_scale: Number = None
    """Scene units per model unit (the paper's q), 0.3 to 1 as a rule; estimated if not given."""
    guidance_scale: Number = None
    """How strongly the model keeps to the photograph; the preset's if not given."""
    steps: Count = None
    """Steps of distillation; the preset's if not given."""
    dry_run: bool = False
    """Print the settings with where each comes from, and stop."""


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
    from zeronvs.pipeline import SceneSettings, reconstruct, resolve

    settings = SceneSettings(
        photo=arguments.photo,
        out=arguments.out,
        preset=arguments.preset,
        model=arguments.model,
        anchors=arguments.anchors,
        seed=arguments.seed,
        device=arguments.device,
        resume=arguments.resume,
        fov_y_rad=radians(arguments.fov_deg),
        elevation_rad=radians(arguments.elevation_deg),
        scene_scale=arguments.scene_scale,
        guidance_scale=arguments.guidance_scale,
        steps=arguments.steps,
    )
    if arguments.dry_run:
        print_settings(resolve(settings).rows)
        return
    with progress_bar() as progress:
        result = reconstruct(settings, progress)
    print_result(result)
