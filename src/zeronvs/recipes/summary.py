"""The page that sums up a batch of photographs: one file that opens from disk, offline."""

import base64
import html
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from zeronvs._core.files import write_bytes
from zeronvs.photo.camera_estimate import CameraEstimate

THUMBNAIL_PX = 320
"""Longer side of the small images in the page."""
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }}
body {{ margin: 1.5rem auto; max-width: 80rem; padding: 0 1rem }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem }}
article {{ border: 1px solid #8886; border-radius: .5rem; padding: .75rem; overflow: hidden }}
h2 {{ font-size: 1rem; margin: .25rem 0; overflow-wrap: anywhere }}
img {{ width: 100%; border-radius: .25rem; display: block }}
table {{ border-spacing: 0 }} td {{ padding: 0 .6rem 0 0; vertical-align: top }}
td:last-child, .note {{ opacity: .75 }} .note {{ margin: .25rem 0 }}
.error {{ color: #c22; overflow-wrap: anywhere }}
nav a {{ margin-right: .75rem }}
</style>
<h1>{title}</h1>
<p>{count}</p>
<main>
{entries}
</main>
</html>
"""


class Made(NamedTuple):
    """What was made of one photograph."""

    estimates: CameraEstimate
    notes: tuple[str, ...]
    picture: Path | None
    """An image file that stands for it."""
    files: tuple[Path, ...]
    """Files to be linked."""


@dataclass(frozen=True)
class Entry:
    """One photograph of a batch: what was made of it, or why nothing was."""

    name: str
    made: Made | None = None
    error: str | None = None


def write_summary(path: Path, entries: Sequence[Entry], *, total: int, title: str) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The HTML file; links are relative to its folder.
        entries: Photographs that are done, in the order of the page.
        total: Photographs in the batch.
    """
    failed = sum(entry.error is not None for entry in entries)
    count = f"{len(entries)} of {total} photographs done, {failed} of them failed."
    page = _PAGE.format(
        title=html.escape(title),
        count=count,
        entries="\n".join("".join(_entry(entry, path.parent)) for entry in entries),
    )
    write_bytes(path, page.encode("utf-8", "replace"))


def _entry(entry: Entry, folder: Path) -> Iterator[str]:
    name, made = html.escape(entry.name), entry.made
    yield "<article>"
    files = {} if made is None else {file.name: _link(file, folder) for file in made.files}
    if made is not None and made.picture is not None:
        image = f'<img src="{_thumbnail(made.picture)}" alt="{name}">'
        page = files.get("scene.html")
        yield image if page is None else f'<a href="{page}">{image}</a>'
    yield f"<h2>{name}</h2>"
    if entry.error is not None:
        yield f'<p class="error">{html.escape(entry.error)}</p>'
    if made is not None:
        rows = [
            f"<tr><td>{row}<td>{value}<td>{html.escape(source)}</tr>"
            for row, value, source in _rows(made.estimates)
        ]
        yield f"<table>{''.join(rows)}</table>"
        yield from (f'<p class="note">{html.escape(note)}</p>' for note in made.notes)
    links = [f'<a href="{link}">{html.escape(file)}</a>' for file, link in files.items()]
    yield f"<nav>{''.join(links)}</nav></article>"


def _rows(estimates: CameraEstimate) -> Iterator[tuple[str, str, str]]:
    """Yield name, value with spread, and source."""
    angles = {"field of view": estimates.fov_y_rad, "elevation": estimates.elevation_rad}
    for name, angle in angles.items():
        value, spread = math.degrees(angle.value), math.degrees(angle.spread)
        yield name, f"{value:.1f} ± {spread:.1f}°", angle.source
    scale = estimates.scene_scale
    yield "scene scale", f"{scale.value:.2f} ± {scale.spread:.2f}", scale.source


def _link(file: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(file, folder)).as_posix())


def _thumbnail(path: Path) -> str:
    """Return a small JPEG of an image of ours as an address that needs no file."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
