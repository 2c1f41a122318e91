"""A folder of photographs as a batch: one folder each, and one page that sums it up."""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zeronvs._core.errors import HealthError, InputError
from zeronvs.cli.arguments import SUMMARY
from zeronvs.cli.frame import WENT_WRONG, explained, fail

if TYPE_CHECKING:
    from zeronvs.recipes.summary import Made


def run_batch(
    folder: Path,
    out: Path,
    make: Callable[[Path, Path], "Made"],
    *,
    words: Sequence[str],
    writes: bool,
) -> None:
    """Make something of every photograph in a folder; one that fails does not stop the others.

    Args:
        folder: Its photographs are known by their suffixes; folders in it are not searched.
        out: A folder of its own for each photograph, and index.html, written anew after each.
        make: Takes a photograph and its folder.
        words: The command line, for advice in messages.
        writes: Whether anything is written.

    Raises:
        InputError: There is no photograph, or `out` holds something else.
        HealthError: A photograph failed; the others are done.
    """
    from zeronvs.recipes.summary import Entry, write_summary

    photos = find_photos(folder)
    if writes and out.is_dir() and any(out.iterdir()) and not (out / SUMMARY).is_file():
        raise InputError(f"{out} contains other files; give another folder with -o")
    entries: list[Entry] = []
    for number, photo in enumerate(photos, start=1):
        print(f"[{number}/{len(photos)}] {photo.name}")
        try:
            # With its suffix: a.jpg and a.png are two, and remain so when one is taken away.
            entries.append(Entry(photo.name, made=make(photo, out / photo.name)))
        except BrokenPipeError:  # no fault of the photograph: nobody reads the output any more
            raise
        except Exception as error:
            known = explained(error, words)
            if known is None:  # a bug, to be reported; the others may work all the same
                traceback.print_exc()
                known = f"{type(error).__name__}: {error}", WENT_WRONG
            message = " ".join(known[0].split())
            fail(f"{photo.name}: {message}", WENT_WRONG)
            entries.append(Entry(photo.name, error=message))
        print()
        if writes:
            write_summary(out / SUMMARY, entries, total=len(photos), title=folder.resolve().name)
    failed = [entry.name for entry in entries if entry.error is not None]
    if writes:
        print(out / SUMMARY)
    if failed:
        listed = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise HealthError(f"{len(failed)} of {len(photos)} photographs failed: {listed}")


def find_photos(folder: Path) -> list[Path]:
    """Return the photographs in a folder, by name.

    Raises:
        InputError: There is none, or the folder cannot be read.
    """
    from zeronvs.photo.photo import PHOTO_SUFFIXES

    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    photos = [path for path in inside if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()]
    others = sum(path.is_file() for path in inside) - len(photos)
    if not photos:
        raise InputError(
            f"{folder} has no photograph (a file that ends in {', '.join(sorted(PHOTO_SUFFIXES))})"
        )
    if others:
        print(f"note: {others} files in {folder} are no photographs by their names")
    return photos
