"""Report of an evaluation of views: table, scores, and contact sheets."""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from zeronvs._core.files import write_bytes, write_json
from zeronvs.evaluation.metrics import KID
from zeronvs.evaluation.views import COPY, ViewsEvaluation
from zeronvs.formats.images import contact_sheet, write_image
from zeronvs.formats.video import to_bytes

SCHEMA = 1
"""Version of the layout of metrics.json."""
HEADER_PX = 16
GAP_PX = 4
FORMATS = {"PSNR": "{:.2f}", "SSIM": "{:.3f}", "ST-LPIPS": "{:.3f}", KID: "{:.3f}"}
BETTER = {"PSNR": "higher", "SSIM": "higher", "ST-LPIPS": "lower", KID: "lower"}


def table_rows(evaluation: ViewsEvaluation) -> list[list[str]]:
    """Return the table as rows of cells: a heading, then a row for each method."""
    classes = evaluation.classes()
    counts = {
        label: sum(pair.name.motion_class == label for pair in evaluation.pairs)
        for label in classes
    }
    heading = [
        "",
        *(f"{label} ({counts[label]}) {m}" for label in classes for m in evaluation.metrics),
    ]
    rows = [heading]
    for method in evaluation.methods:
        cells = [
            FORMATS[metric].format(evaluation.mean(label, method, metric))
            for label in classes
            for metric in evaluation.metrics
        ]
        rows.append([method, *cells])
    return rows


def markdown_table(evaluation: ViewsEvaluation) -> str:
    """Return the table in Markdown, with the direction of each metric."""
    rows = table_rows(evaluation)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    better = ", ".join(f"{metric}: {BETTER[metric]} is better" for metric in evaluation.metrics)
    text = "\n".join(lines) + f"\n\nMeans over the pairs of a class. {better}.\n"
    if evaluation.left_out:
        text += f"\nLeft out: {len(evaluation.left_out)} pairs.\n\n"
        text += "".join(f"- {line}\n" for line in left_out_lines(evaluation))
    return text


def left_out_lines(evaluation: ViewsEvaluation) -> list[str]:
    """Return a line for each pair that was not measured, with the reason."""
    return [
        f"{pair.name.scene} {pair.name.input} -> {pair.name.target}: {pair.reason}"
        for pair in evaluation.left_out
    ]


def write_views_report(
    out: Path,
    evaluation: ViewsEvaluation,
    *,
    source: str,
    model: str,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write `metrics.json`, `table.md`, `report.html` and a contact sheet for each class.

    The page holds table, spread and sheets in one file, which opens without a network.

    Args:
        out: The folder.
        evaluation: What is reported.
        source: The folder of scenes.
        model: Name of the model.
        notes: Lines below the table.

    Returns:
        The files.
    """
    means = {
        label: {
            method: {m: _known(evaluation.mean(label, method, m)) for m in evaluation.metrics}
            for method in evaluation.methods
        }
        for label in evaluation.classes()
    }
    pairs = [asdict(pair.name) | {"scores": pair.scores} for pair in evaluation.pairs]
    write_json(
        out / "metrics.json",
        {
            "schema": SCHEMA,
            "model": model,
            "source": source,
            "settings": asdict(evaluation.config),
            "means": means,
            "pairs": pairs,
            "left_out": [asdict(p.name) | {"reason": p.reason} for p in evaluation.left_out],
            "notes": list(notes),
        },
    )
    text = markdown_table(evaluation) + "".join(f"\n{note}\n" for note in notes)
    write_bytes(out / "table.md", text.encode())
    files = [out / "metrics.json", out / "table.md", out / "report.html"]
    shown = [method for method in evaluation.methods if method != COPY]
    sheets = {
        label: _sheet(rows, ["input (the copy)", "truth", *shown])
        for label, rows in evaluation.sheets.items()
    }
    for label, sheet in sheets.items():
        path = out / f"sheet_{_file_name(label)}.png"
        write_image(path, sheet)
        files.append(path)
    page = html_report(evaluation, sheets, f"{model} on {source}", notes)
    write_bytes(out / "report.html", page.encode())
    return files


STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; padding: 0 1em }
body { max-width: 90em }
table { border-collapse: collapse } td, th { padding: .3em .8em; text-align: right }
tr > :first-child { text-align: left } tr + tr { border-top: 1px solid #ccc }
.best { font-weight: bold } img { max-width: 100% } .wide { overflow-x: auto }
small { color: #666; display: block }"""


def html_report(
    evaluation: ViewsEvaluation,
    sheets: dict[str, Float[Tensor, "3 sheet_h sheet_w"]],
    title: str,
    notes: Sequence[str] = (),
) -> str:
    """Return one page with a table for each class of motion, and its contact sheet.

    Cells have the mean over the pairs and the standard deviation between them; the best of each
    column is bold.

    Args:
        sheets: Class of motion -> its contact sheet, RGB in [0, 1].
        title: Heading of the page.
        notes: Lines below the tables.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for label in evaluation.classes():
        parts.append(f"<h2>{html.escape(label)} motion</h2><div class=wide>")
        parts.append(_html_table(evaluation, label) + "</div>")
        if label in sheets:
            parts.append(f'<img alt="contact sheet: {html.escape(label)}" src="')
            parts.append(f'data:image/jpeg;base64,{_jpeg_base64(sheets[label])}">')
    settings = ", ".join(f"{name}: {value}" for name, value in asdict(evaluation.config).items())
    lines = [*notes, *(f"left out: {line}" for line in left_out_lines(evaluation)), settings]
    parts += [f"<p>{html.escape(line)}</p>" for line in lines]
    head = f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{viewport}{head}'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _html_table(evaluation: ViewsEvaluation, label: str) -> str:
    """Return the table of one class of motion."""
    pairs = [pair for pair in evaluation.pairs if pair.name.motion_class == label]
    heading = "".join(f"<th>{m}<small>{BETTER[m]} is better</small>" for m in evaluation.metrics)
    rows = [f"<tr><th>{len(pairs)} pairs{heading}"]
    best = {}
    for metric in evaluation.metrics:
        means = [evaluation.mean(label, method, metric) for method in evaluation.methods]
        known = [mean for mean in means if math.isfinite(mean)]
        if known:
            best[metric] = max(known) if BETTER[metric] == "higher" else min(known)
    for method in evaluation.methods:
        cells = []
        for metric in evaluation.metrics:
            mean = evaluation.mean(label, method, metric)
            mark = " class=best" if mean == best.get(metric) else ""
            spread = ""
            if metric != KID:  # of all views of the class together
                deviation = float(np.std([pair.scores[method][metric] for pair in pairs]))
                spread = f"<small>± {FORMATS[metric].format(deviation)}</small>"
            cells.append(f"<td{mark}>{FORMATS[metric].format(mean)}{spread}")
        rows.append(f"<tr><td>{html.escape(method)}{''.join(cells)}")
    return f"<table>{''.join(rows)}</table>"


def _jpeg_base64(image: Float[Tensor, "3 h w"]) -> str:
    stream = io.BytesIO()
    pixels = to_bytes(image).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(stream, "jpeg", quality=88)
    return base64.b64encode(stream.getvalue()).decode()


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sheet(
    rows: list[Float[Tensor, "columns 3 h w"]], titles: list[str]
) -> Float[Tensor, "3 sheet_h sheet_w"]:
    sheet = contact_sheet(torch.cat(rows), columns=len(titles), gap_px=GAP_PX)
    width_px = rows[0].shape[-1]
    header = Image.new("RGB", (sheet.shape[-1], HEADER_PX), "white")
    draw = ImageDraw.Draw(header)
    for column, title in enumerate(titles):
        words = title.removeprefix("input ") if column > 1 else title
        draw.text((column * (width_px + GAP_PX) + 2, 2), words, fill="black")
    top = torch.from_numpy(np.array(header, dtype=np.float32) / 255).permute(2, 0, 1)
    return torch.cat([top, sheet], dim=1)


def _file_name(label: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in label)
