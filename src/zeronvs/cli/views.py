"""`zeronvs views`: new views of one photograph along a camera path, without a scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeronvs.cli.arguments import (
    Count,
    Degrees,
    Device,
    Number,
    check_counts,
    check_device,
    check_new_folder,
    check_sampling,
    parse,
    radians,
)


@dataclass(frozen=True, kw_only=True)
class ViewsArguments:
    """Make new views of one photograph: pictures, a contact sheet, a video and their cameras."""

    photo: tyro.conf.Positional[Path]
    """The photograph, in any common format."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder to make."""
    path: str = "orbit"
    """orbit, spiral, lemniscate, zoom-in, zoom-out, dolly-zoom-in, dolly-zoom-out, move-forward
    (-backward, -left, -right, -up, -down), roll, or a file with cameras (nerfstudio's
    camera_path.json or transforms.json, RealEstate10K's txt)."""
    frames: int = 24
    """Views along the path."""
    samples: int = 1
    """Different answers for each view."""
    steps: Count = None
    """DDIM steps; the model's own if not given (built-in 2, released 50)."""
    eta: Number = None
    """Noise added while sampling, 0 (deterministic) to 1; the model's own if not given."""
    guidance_scale: Number = None
    """How strongly the model keeps to the photograph; 1 is none; the model's own if not given."""
    batch_size: int = 8
    """Views sampled at once; less needs less memory."""
    model: str = "builtin"
    """builtin, a folder, or a hub id."""
    seed: int = 0
    """The same seed gives the same views."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""
    fov_deg: Degrees = None
    """Vertical field of view of the photograph's centre square; estimated if not given."""
    elevation_deg: Degrees = None
    """Height angle of the camera over what it looks at; estimated if not given."""
    scene_scale: Number = None
    """Scene units per model unit (the paper's q), 0.3 to 1 as a rule; estimated if not given."""
    dry_run: bool = False
    """Print the settings with where each comes from, and stop."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and sample the views."""
    arguments = parse(ViewsArguments, words, "views")
    check_counts(
        frames=arguments.frames,
        samples=arguments.samples,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
    )
    check_sampling(seed=arguments.seed, guidance_scale=arguments.guidance_scale, eta=arguments.eta)
    if not arguments.dry_run:
        check_new_folder(arguments.out, resume=False)
    check_device(arguments.device)
    from zeronvs.cli.report import print_result, print_settings, progress_bar
    from zeronvs.pipeline import ViewsSettings, resolve, sample_views

    settings = ViewsSettings(
        photo=arguments.photo,
        out=arguments.out,
        path=arguments.path,
        frames=arguments.frames,
        samples=arguments.samples,
        steps=arguments.steps,
        eta=arguments.eta,
        guidance_scale=arguments.guidance_scale,
        batch_size=arguments.batch_size,
        model=arguments.model,
        seed=arguments.seed,
        device=arguments.device,
        fov_y_rad=radians(arguments.fov_deg),
        elevation_rad=radians(arguments.elevation_deg),
        scene_scale=arguments.scene_scale,
    )
    if arguments.dry_run:
        print_settings(resolve(settings).rows)
        return
    with progress_bar() as progress:
        result = sample_views(settings, progress)
    print_result(result)
