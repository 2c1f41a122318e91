"""`zeronvs views`: new views of one photograph along a camera path, without a scene."""

from collections.abc import Sequence
from dataclasses import dataclass

from zeronvs.cli.arguments import (
    Count,
    Number,
    PhotoArguments,
    check_counts,
    check_device,
    check_new_folder,
    check_sampling,
    parse,
)


@dataclass(frozen=True, kw_only=True)
class ViewsArguments(PhotoArguments):
    """Make new views of one photograph: pictures, a contact sheet, a video and their cameras."""

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
    batch_size: int = 8
    """Views sampled at once; less needs less memory."""


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
        check_new_folder(arguments.out, resume=arguments.resume)
    check_device(arguments.device)
    from zeronvs.cli.report import print_result, print_settings, progress_bar
    from zeronvs.recipes.reconstruct import ViewsSettings, resolve, sample_views

    settings = ViewsSettings(
        **arguments.settings(),
        path=arguments.path,
        frames=arguments.frames,
        samples=arguments.samples,
        steps=arguments.steps,
        eta=arguments.eta,
        batch_size=arguments.batch_size,
    )
    if arguments.dry_run:
        print_settings(resolve(settings).rows)
        return
    with progress_bar() as progress:
        result = sample_views(settings, progress)
    print_result(result)
