"""`zeronvs render`: a video of a finished scene along a camera path."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeronvs.cli.arguments import Count, Device, check_counts, check_device, check_path, parse


@dataclass(frozen=True, kw_only=True)
class RenderArguments:
    """Render a finished scene along a camera path."""

    run_dir: tyro.conf.Positional[Path]
    """The folder that `zeronvs scene` made."""
    path: str | None = None
    """A named path (see `zeronvs views --help`) or a file with cameras; orbit or around, whichever
    suits the photograph, if not given."""
    frames: int = 72
    """Frames along the path."""
    size: Count = None
    """Longer side in pixels; the scene's own if not given."""
    fps: int = 24
    """Frames a second."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = None
    """The video, .mp4, .webm or .gif; renders/PATH.mp4 in the run folder if not given."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and render."""
    arguments = parse(RenderArguments, words, "render")
    check_counts(frames=arguments.frames, size=arguments.size, fps=arguments.fps)
    if arguments.path is not None:
        check_path(arguments.path)
    check_device(arguments.device)
    from zeronvs.cli.report import progress_bar
    from zeronvs.cli.resolve import best_device
    from zeronvs.recipes.run_folder import open_run, render_run

    with progress_bar() as progress:
        video = render_run(
            open_run(arguments.run_dir, best_device(arguments.device)),
            path=arguments.path,
            frames=arguments.frames,
            size_px=arguments.size,
            frames_per_second=arguments.fps,
            out=arguments.out,
            progress=progress,
        )
    print(video)
