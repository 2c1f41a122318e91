"""What a file is, by its first bytes; files that are no weights are named as what they are."""

from enum import Enum
from pathlib import Path

from zeronvs._core.errors import InputError


class FileKind(Enum):
    """Formats of weights that are read."""

    TORCH = "torch checkpoint"
    SAFETENSORS = "safetensors"


def file_kind(path: Path) -> FileKind:
    """Return the format of a file of weights, whatever its name.

    Raises:
        InputError: It is something else, or cannot be opened.
    """
    if path.exists() and not path.is_file():  # reading a named pipe would wait for ever
        raise InputError(f"{path} is not a file.")
    try:
        with path.open("rb") as handle:
            start = handle.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    if start[:2] == b"PK":
        return FileKind.TORCH
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 10**8:
        return FileKind.SAFETENSORS
    raise InputError(f"{path.name} {_what_it_is(start)}.")


def _what_it_is(start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself. Fetch it: git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a checkpoint. Download the file itself"
    if start[:1] == b"\x80" or start[257:262] == b"ustar":
        return (
            "has the layout of torch before 1.6, which is not read here. Save it again: "
            "torch.save(torch.load(path, weights_only=True), new_path)"
        )
    is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in start)
    return f"is {'text' if is_text else 'something else'}, not a checkpoint"
