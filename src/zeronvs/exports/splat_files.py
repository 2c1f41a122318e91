"""Files of splats for other programs, all of the same world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from zeronvs._core.errors import InputError
from zeronvs._core.optional import require
from zeronvs.cameras.conventions import WorldUp
from zeronvs.formats.compressed_ply import write_compressed_ply
from zeronvs.formats.ply import write_point_ply, write_splat_ply
from zeronvs.formats.sog import splat_transform, write_sog
from zeronvs.formats.splat import write_splat
from zeronvs.formats.splat_glb import write_splat_glb
from zeronvs.formats.spz import SpzVersion, write_spz
from zeronvs.formats.usd import write_splat_usd
from zeronvs.formats.viewer_splats import drawable
from zeronvs.splats import GaussianSplats

SplatFormat = Literal["ply", "compressed-ply", "splat", "spz", "sog", "splat-glb", "usd", "points"]
SPLAT_FORMATS: tuple[SplatFormat, ...] = get_args(SplatFormat)
SpzAxes = Literal["ply", "rub"]
SOLID = 0.5
"""Opacity from which a splat is a point of the point cloud."""


@dataclass(frozen=True, kw_only=True)
class FileConfig:
    """How files for other programs are written."""

    up: WorldUp = "y-down"
    """World axes of splats, points and COLMAP's cameras; glTF and USD have y up always."""
    center: bool = False
    """Shift the world so that the median of what the photograph shows is its origin."""
    max_splats: int | None = None
    """Splats at most: neighbours are merged. None: as many as the scene has."""
    spz_axes: SpzAxes = "ply"
    """Axes of SPZ. "ply": those of the PLY, as SuperSplat expects; "rub": y up, as its
    specification says."""
    spz_version: SpzVersion = 3
    """3 is read by every program; 4 needs the extra `spz`."""


def check_splat_files(formats: Sequence[str], config: FileConfig) -> None:
    """Refuse settings that mean nothing, and formats whose writers are not installed.

    Raises:
        InputError: A number is too small, or sog is wanted without Node.js.
        ImportError: usd, or version 4 of spz, is wanted without its package.
    """
    if config.max_splats is not None and config.max_splats < 1:
        raise InputError(
            f"max_splats is {config.max_splats}; it must be at least 1", argument="max_splats"
        )
    if "sog" in formats:
        splat_transform()
    if "usd" in formats:
        require("pxr", "usd")
    if "spz" in formats and config.spz_version == 4:
        require("zstandard", "spz")


def write_splat_file(
    kind: SplatFormat, folder: Path, splats: GaussianSplats, config: FileConfig
) -> Path:
    """Write scene/scene.* of one format and return its path."""
    folder = folder / "scene"
    match kind:
        case "ply":
            write_splat_ply(path := folder / "scene.ply", splats, up=config.up)
        case "compressed-ply":
            write_compressed_ply(path := folder / "scene.compressed.ply", splats, up=config.up)
        case "splat":
            write_splat(path := folder / "scene.splat", splats, up=config.up)
        case "spz":
            up = "y-up" if config.spz_axes == "rub" else config.up
            write_spz(path := folder / "scene.spz", splats, version=config.spz_version, up=up)
        case "sog":
            write_sog(path := folder / "scene.sog", splats, up=config.up)
        case "splat-glb":
            write_splat_glb(path := folder / "scene.glb", splats)
        case "usd":
            write_splat_usd(path := folder / "scene.usdc", splats)
        case "points":
            points = solid_points(splats)
            path = folder / "points.ply"
            write_point_ply(path, points.means, points.colors, up=config.up)
    return path


def solid_points(splats: GaussianSplats) -> GaussianSplats:
    """Return the splats whose centres are points of the scene."""
    splats = drawable(splats)
    return splats[splats.opacities >= SOLID]
