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
    check_path,
    check_sampling,
    parse,
)


@dataclass(frozen=True, kw_only=True)
class ViewsArguments(PhotoArguments):
    """Make new views of one photograph: images, a contact sheet, a video and their cameras."""

    path: str = "orbit"
    """orbit, spiral, lemniscate, zoom-in, zoom-out, dolly-zoom-in, dolly-zoom-out, move-forward
    (-backward, -left, -right, -up, -down), roll, or a file with cameras (nerfstudio's
    camera_path.json or transforms.json, RealEstate10K's txt)."""
    frames: int = 24
    """Views along the path."""
    samples: int = 1
    """Independent samples per view."""
    steps: Count = None
    """DDIM steps; the model's own if not given (built-in 8, released 50)."""
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
    check_path(arguments.path)
    if not arguments.dry_run:
        check_new_folder(arguments.out, resume=arguments.resume)
    from zeronvs.cli.report import print_result, print_settings, progress_bar
    from zeronvs.cli.resolve import check_model, resolve_model, resolve_photo, resolve_run, source

    check_model(arguments.model)
    check_device(arguments.device)
    from zeronvs.recipes.write_run import SamplerSettings, write_views_run

    photo, photo_rows = resolve_photo(arguments)
    pipe, rows = resolve_model(arguments)
    rows += [*resolve_run(arguments), *photo_rows]
    defaults = pipe.conditioning.sampling_defaults
    sampler = SamplerSettings(
        samples=arguments.samples,
        num_inference_steps=arguments.steps or defaults.num_inference_steps,
        guidance_scale=_given_or(arguments.guidance_scale, defaults.guidance_scale),
        eta=_given_or(arguments.eta, defaults.eta),
        batch_size=arguments.batch_size,
    )
    rows += [(name, getattr(arguments, name), "given") for name in ("path", "frames", "samples")]
    rows += [
        ("steps", sampler.num_inference_steps, source(arguments.steps, "model")),
        ("eta", sampler.eta, source(arguments.eta, "model")),
        ("guidance_scale", sampler.guidance_scale, source(arguments.guidance_scale, "model")),
    ]
    print_settings(rows)
    if arguments.dry_run:
        return
    with progress_bar() as progress:
        result = write_views_run(
            photo,
            pipe,
            arguments.path,
            arguments.frames,
            arguments.out,
            sampler=sampler,
            seed=arguments.seed or 0,
            rows=rows,
            resume=arguments.resume,
            progress=progress,
        )
    print_result(result)


def _given_or(value: float | None, default: float) -> float:
    return default if value is None else value
