"""`zeronvs export`: files of a finished scene for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zeronvs.cli.arguments import Device, check_device, parse


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write files of a finished scene for other programs."""

    run_dir: tyro.conf.Positional[Path]
    """The folder that `zeronvs scene` made."""
    format: tuple[Literal["html", "ply", "glb", "nerfstudio"], ...] = ()
    """html: a page to look around in; ply: 3D Gaussian splats; glb: a textured mesh; nerfstudio:
    transforms.json with its images. All, if not given."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """The folder to write to; the run folder if not given."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and export."""
    arguments = parse(ExportArguments, words, "export")
    check_device(arguments.device)
    from zeronvs.cli.report import progress_bar
    from zeronvs.cli.resolve import best_device
    from zeronvs.exports.export import FORMATS
    from zeronvs.recipes.run_folder import export_run, open_run

    run = open_run(arguments.run_dir, best_device(arguments.device))
    formats = arguments.format or FORMATS
    with progress_bar() as progress:
        files = export_run(run, formats, out=arguments.out, progress=progress)
    for path in files:
        print(path)
