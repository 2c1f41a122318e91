"""PlayCanvas' `.sog`, written by their program `splat-transform`.

The format (WebP images and code books in a zip) has one maintained writer, which needs Node.js: the
program itself where it is on the PATH, else `npx`, which fetches it from the npm registry once.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs.cameras.conventions import WorldUp
from zeronvs.formats.ply import write_splat_ply
from zeronvs.splats import GaussianSplats

PROGRAM = "splat-transform"
PACKAGE = f"@playcanvas/{PROGRAM}"
_LIMIT_S = 900


def write_sog(path: Path, splats: GaussianSplats, *, up: WorldUp = "y-down") -> int:
    """Write splats, whole or not at all, and return how many were written.

    What is left out, and the errors, are those of `viewer_splats`.

    Raises:
        InputError: `splat-transform` cannot be run, or fails.
    """
    command = splat_transform()
    with tempfile.TemporaryDirectory() as folder, write_aside(path) as aside:
        source = Path(folder) / "scene.ply"
        count = write_splat_ply(source, splats, up=up)
        words = [*command, "--overwrite", "--gpu", "cpu", str(source), str(aside.absolute())]
        try:
            done = subprocess.run(
                words,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_LIMIT_S,
                cwd=folder,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{PROGRAM} was stopped after {_LIMIT_S} s") from error
        if done.returncode != 0 or aside.stat().st_size == 0:
            said = (done.stderr + done.stdout).decode(errors="replace").split("\n")
            last = next((line.strip() for line in said if "rror" in line), "nothing was written")
            raise InputError(f"{PROGRAM} failed, so {path.name} was not written: {last[:200]}")
    return count


def splat_transform() -> list[str]:
    """Return the words that run `splat-transform`.

    Raises:
        InputError: There is neither it nor `npx`.
    """
    if program := shutil.which(PROGRAM):
        return [program]
    if npx := shutil.which("npx"):
        return [npx, "--yes", PACKAGE]
    raise InputError(
        f"sog is written by {PROGRAM}, which needs Node.js: install it, or "
        f"export spz and convert it at https://superspl.at/convert"
    )
