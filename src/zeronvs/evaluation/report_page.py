"""The shell of a report: one HTML file that opens without a network."""

import base64
import html
import io
from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from zeronvs.formats.video import to_bytes

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; padding: 0 1em }
body { max-width: 90em }
table { border-collapse: collapse } td, th { padding: .3em .8em; text-align: right }
tr > :first-child { text-align: left } tr + tr { border-top: 1px solid #ccc }
.best { font-weight: bold } img { max-width: 100% } .wide { overflow-x: auto }
small { color: #666; display: block }"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a page of parts that are HTML already.

    Args:
        title: Of the window, plain text.
        parts: The body.
    """
    head = f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{viewport}{head}'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def table(rows: Sequence[Sequence[str]], best: Sequence[tuple[int, int]] = ()) -> str:
    """Return a table of plain text; the first row is the heading.

    Args:
        rows: Cells.
        best: Row and column of the cells in bold.
    """
    lines = []
    for index, row in enumerate(rows):
        tag = "th" if index == 0 else "td"
        cells = [
            f"<{tag}{' class=best' if (index, column) in best else ''}>{html.escape(cell)}"
            for column, cell in enumerate(row)
        ]
        lines.append("<tr>" + "".join(cells))
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return the same table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines) + "\n"


def picture(image: Float[Tensor, "3 h w"], description: str) -> str:
    """Return an image that lies in the page itself.

    Args:
        image: RGB in [0, 1].
        description: For those who do not see it.
    """
    stream = io.BytesIO()
    pixels = to_bytes(image).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(stream, "jpeg", quality=88)
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/jpeg;base64,{encoded}">'
