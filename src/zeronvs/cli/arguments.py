"""Parsing of a subcommand's arguments into its dataclass, and validation."""

import contextlib
import io
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from zeronvs._core.errors import InputError

Arguments = TypeVar("Arguments")

PARSER_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
SUMMARY = "index.html"
"""The page of a batch, in its folder; where it is, the folder is one of a batch."""

_WRONG_NUMBER = re.compile(r"Error parsing (\S+): .*\b(int|float)\b.*: ('.*')")
"""What the parser prints of a value that Python's int or float refuses."""

Degrees = Annotated[float | None, tyro.conf.arg(metavar="DEGREES")]
Number = Annotated[float | None, tyro.conf.arg(metavar="NUMBER")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N")]
Photo = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PHOTO")]
Photos = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PHOTO_OR_FOLDER")]
Device = Annotated[str | None, tyro.conf.arg(metavar="DEVICE")]


@dataclass(frozen=True, kw_only=True)
class CameraArguments:
    """Numbers about a photograph that can be given, and the models that estimate the others."""

    fov_deg: Degrees = None
    """Vertical field of view of the photograph's centre square; estimated if not given."""
    elevation_deg: Degrees = None
    """Elevation of the camera above the scene centre; estimated if not given."""
    scene_scale: Number = None
    """Scene units per model unit (the paper's q), 0.3 to 1 as a rule; estimated if not given."""
    depth_model: Annotated[str, tyro.conf.arg(metavar="NAME_OR_PATH")] = "builtin"
    """builtin, or weights that are here: a folder of Depth Anything or Depth Pro, model.pt of
    MoGe-2 (docs/own-photos.md); none, for estimates only."""
    camera_model: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of GeoCalib, for field of view and elevation; from the photograph if not given."""
    device: Device = None
    """cpu, cuda, cuda:1, mps; the best one here if not given."""


@dataclass(frozen=True, kw_only=True)
class PhotoArguments(CameraArguments):
    """Arguments of every verb that makes something of a photograph."""

    photo: Photo
    """The photograph, in any common format."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder to make."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME_OR_PATH")] = None
    """builtin, a name (`zeronvs model list`), a folder, or a hub id; builtin if not given."""
    seed: Count = None
    """The same seed gives the same result; 0 if not given."""
    guidance_scale: Number = None
    """Classifier-free guidance, 1 is none; the preset's or the model's own if not given."""
    resume: bool = False
    """Resume the run in the folder where it was stopped."""
    dry_run: bool = False
    """Print the settings with where each comes from, and stop."""


def parse(kind: type[Arguments], words: Sequence[str], verb: str) -> Arguments:
    """Fill the dataclass of a verb; its field docstrings are the help texts.

    Raises:
        InputError: An argument is unknown, missing, or has a value that it cannot have.
        SystemExit: The help was printed.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            filled = tyro.cli(kind, args=list(words), prog=f"zeronvs {verb}", config=PARSER_CONFIG)
    except SystemExit as stop:
        if stop.code and (line := _one_line(printed.getvalue())):
            raise InputError(f"{line}. See: zeronvs {verb} --help") from None
        raise
    print(printed.getvalue(), end="", file=sys.stderr)
    return filled


def _one_line(box: str) -> str:
    """Return the message in the box that tyro draws, without its help texts.

    After the title, sections are separated by rules; names are indented by 4 columns and their
    help texts by 8. The lines are drawn in ASCII where the terminal has no others.
    """
    sections: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]:
        row = line.rstrip("│ ")[2:]
        if set(row) <= set("─-╯"):
            sections.append([])
        elif not row.startswith(" " * 8):
            sections[-1].append(row)
    texts = [
        " ".join("; ".join(re.split(r"\n {4}(?!$)", "\n".join(rows))).split()).strip(" .")
        for rows in sections
        if rows and not rows[0].startswith(("For full helptext", "Argument helptext"))
    ]
    line = ". ".join(texts).replace(":;", ":").replace(" .", ".").replace("'None', ", "")
    if number := _WRONG_NUMBER.fullmatch(line):
        flag, kind, seen = number.groups()
        return f"{flag} is {seen}; it must be a {'whole ' if kind == 'int' else ''}number"
    return line[:1].lower() + line[1:]


def radians(degrees: float | None) -> float | None:
    """Return the angle in radians; None stays None."""
    return None if degrees is None else math.radians(degrees)


def check_counts(**counts: int | None) -> None:
    """Refuse counts below 1; None means the preset's value.

    Raises:
        InputError: A count is too small; the flag has the argument's name.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"--{name.replace('_', '-')} is {count}; it must be at least 1")


def check_port(port: int) -> None:
    """Refuse a number that is no port; 0 takes any that is free.

    Raises:
        InputError: It is out of range.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port is {port}; it must lie between 0 and 65535")


def check_anchors(anchors: int | None) -> None:
    """Refuse a negative number of anchors; 0 means plain score distillation.

    Raises:
        InputError: The number is negative.
    """
    if anchors is not None and anchors < 0:
        raise InputError(f"--anchors is {anchors}; it must be 0 (none) or more")


def check_sampling(
    *, seed: int | None, guidance_scale: float | None, eta: float | None = None
) -> None:
    """Refuse settings of the sampler that mean nothing.

    Raises:
        InputError: A setting is outside its range; NaN always is.
    """
    if seed is not None and not 0 <= seed < 2**31:
        raise InputError(f"--seed is {seed}; it must lie between 0 and {2**31 - 1}")
    if guidance_scale is not None and not 0.0 <= guidance_scale <= 1000.0:
        raise InputError(
            f"--guidance-scale is {guidance_scale:g}; it must lie between 0 and 1000 (1 is none)"
        )
    if eta is not None and not 0.0 <= eta <= 1.0:
        raise InputError(f"--eta is {eta:g}; it must lie between 0 and 1")


def check_path(path: str) -> None:
    """Refuse a camera path that does not exist or cannot be read; print its notes.

    Raises:
        InputError: It is neither a named path nor a file with cameras.
    """
    if path == "orbit":
        return
    from zeronvs.formats.camera_path import path_file
    from zeronvs.formats.transforms_json import read_camera_path

    notes: list[str] = []
    if (file := path_file(path)) is not None:
        read_camera_path(file, image_size_px=(64, 64), notes=notes)
    for note in notes:
        print(f"note: {note}")


def check_new_folder(out: Path, *, resume: bool) -> None:
    """Refuse to mix two runs: a run needs a new or empty folder, or resumes in its own.

    Raises:
        InputError: `out` is a file, holds something else, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; -o names a folder")
    if out.is_dir() and not resume and any(out.iterdir()):
        is_run = (out / "run.json").exists() or (out / SUMMARY).exists()
        content, remedy = ("a run", "add --resume, or ") if is_run else ("other files", "")
        raise InputError(f"{out} contains {content}; {remedy}give another folder with -o")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file; a run folder cannot be made inside it")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{nearest} cannot be written to; give another folder with -o")


def check_device(device: str | None) -> None:
    """Refuse a device that this machine does not have; None chooses one.

    Raises:
        InputError: There is no such device here.
    """
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=torch.device(device))
    except Exception as error:  # each backend raises its own kind
        kinds = ["cpu"]
        if torch.cuda.is_available():
            kinds += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise InputError(
            f"--device {device}: there is no such device here; there is: {', '.join(kinds)}"
        ) from error
