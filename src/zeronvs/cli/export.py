"""`zeronvs export`: files of a finished scene for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zeronvs.cli.arguments import Count, Device, check_counts, check_device, parse


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write files of a finished scene for other programs."""

    run_dir: tyro.conf.Positional[Path]
    """The folder that `zeronvs scene` made."""
    format: tuple[
        Literal[
            "html",
            "ply",
            "compressed-ply",
            "splat",
            "spz",
            "sog",
            "splat-glb",
            "usd",
            "points",
            "glb",
            "nerfstudio",
            "colmap",
            "path",
        ],
        ...,
    ] = ()
    """html: a page to look around in; ply, compressed-ply, splat, spz, sog, splat-glb, usd: 3D
    Gaussian splats; points: a point cloud; glb: a textured mesh; nerfstudio: images, depth and
    transforms.json; colmap: images and a sparse model; path: camera_path.json. If not given: html,
    ply, glb, nerfstudio."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """The folder to write to; the run folder if not given."""
    up: Literal["y-down", "y-up", "z-up"] = "y-down"
    """World axes of splats, points and colmap: y down as most viewers expect. glTF and USD always
    have y up."""
    center: bool = False
    """Put the world's origin into the middle of what the photograph shows; not in html."""
    max_splats: Count = None
    """Splats at most, neighbours are merged; not in html. All, if not given."""
    spz_axes: Literal["ply", "rub"] = "ply"
    """ply: the numbers of the PLY, upright in SuperSplat; rub: y up, for viewers that follow the
    specification."""
    spz_version: Literal[3, 4] = 3
    """3: gzip, read everywhere; 4: zstd."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and export."""
    arguments = parse(ExportArguments, words, "export")
    check_counts(max_splats=arguments.max_splats)
    check_device(arguments.device)
    from zeronvs.cli.report import progress_bar
    from zeronvs.cli.resolve import best_device
    from zeronvs.exports.export import COMMON
    from zeronvs.exports.splat_files import FileConfig
    from zeronvs.recipes.run_folder import export_run, open_run

    run = open_run(arguments.run_dir, best_device(arguments.device))
    config = FileConfig(
        up=arguments.up,
        center=arguments.center,
        max_splats=arguments.max_splats,
        spz_axes=arguments.spz_axes,
        spz_version=arguments.spz_version,
    )
    formats = arguments.format or COMMON
    if "sog" in formats:
        print("note: scene.sog is written by PlayCanvas' splat-transform, which Node.js runs")
    with progress_bar() as progress:
        files = export_run(run, formats, config=config, out=arguments.out, progress=progress)
    for path in files:
        print(path)
