"""A camera path, by its name or by its file."""

from pathlib import Path

from zeronvs._core.errors import InputError
from zeronvs.cameras.trajectories import TRAJECTORIES


def path_file(path: str) -> Path | None:
    """Return the file that a camera path is read from; None for a name of `TRAJECTORIES`.

    Raises:
        InputError: There is no such name and no such file.
    """
    if path in TRAJECTORIES:
        return None
    if not Path(path).exists():
        raise InputError(
            f"{path!r} is neither a named path nor a file; the named paths are "
            f"{', '.join(TRAJECTORIES)}",
            argument="path",
        )
    return Path(path)
