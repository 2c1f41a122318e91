"""Report of an evaluation of views: table, scores, and contact sheets."""

import html
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
from zeronvs.evaluation.image_metrics import BACKBONES, MetricRecord, better, printed
from zeronvs.evaluation.metrics import KID
from zeronvs.evaluation.report_page import markdown, page, picture
from zeronvs.evaluation.views import COPY, ViewsEvaluation
from zeronvs.formats.images import contact_sheet, write_image

SCHEMA = 2
"""Version of the layout of metrics.json."""
HEADER_PX = 16
GAP_PX = 4


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
            printed(metric, evaluation.mean(label, method, metric))
            for label in classes
            for metric in evaluation.metrics
        ]
        rows.append([method, *cells])
    return rows


def markdown_table(evaluation: ViewsEvaluation) -> str:
    """Return the table in Markdown, with the direction of each metric."""
    rows = table_rows(evaluation)
    directions = ", ".join(f"{metric}: {better(metric)} is better" for metric in evaluation.metrics)
    text = markdown(rows) + f"\nMeans over the pairs of a class. {directions}.\n"
    if evaluation.left_out:
        text += f"\nLeft out: {len(evaluation.left_out)} pairs.\n\n"
        text += "".join(f"- {line}\n" for line in left_out_lines(evaluation))
    return text


def _records(evaluation: ViewsEvaluation, label: str, method: str) -> list[MetricRecord]:
    """Return the numbers of one row of the table of a class."""
    return [
        MetricRecord(
            metric=metric,
            backbone=BACKBONES.get(metric),
            resolution=evaluation.resolution,
            views=sum(pair.name.motion_class == label for pair in evaluation.pairs),
            seed=evaluation.config.seed,
            value=_known(evaluation.mean(label, method, metric)),
        )
        for metric in evaluation.metrics
    ]


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
            "results": [
                {"class": label, "method": method} | asdict(record)
                for label in evaluation.classes()
                for method in evaluation.methods
                for record in _records(evaluation, label, method)
            ],
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
    text = html_report(evaluation, sheets, f"{model} on {source}", notes)
    write_bytes(out / "report.html", text.encode())
    return files


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
            parts.append(picture(sheets[label], f"contact sheet: {label}"))
    settings = ", ".join(f"{name}: {value}" for name, value in asdict(evaluation.config).items())
    lines = [*notes, *(f"left out: {line}" for line in left_out_lines(evaluation)), settings]
    parts += [f"<p>{html.escape(line)}</p>" for line in lines]
    return page(title, parts)


def _html_table(evaluation: ViewsEvaluation, label: str) -> str:
    """Return the table of one class of motion."""
    pairs = [pair for pair in evaluation.pairs if pair.name.motion_class == label]
    heading = "".join(f"<th>{m}<small>{better(m)} is better</small>" for m in evaluation.metrics)
    rows = [f"<tr><th>{len(pairs)} pairs{heading}"]
    best = {}
    for metric in evaluation.metrics:
        means = [evaluation.mean(label, method, metric) for method in evaluation.methods]
        known = [mean for mean in means if math.isfinite(mean)]
        if known:
            best[metric] = max(known) if better(metric) == "higher" else min(known)
    for method in evaluation.methods:
        cells = []
        for metric in evaluation.metrics:
            mean = evaluation.mean(label, method, metric)
            mark = " class=best" if mean == best.get(metric) else ""
            spread = ""
            if metric != KID:  # of all views of the class together
                deviation = float(np.std([pair.scores[method][metric] for pair in pairs]))
                spread = f"<small>± {printed(metric, deviation)}</small>"
            cells.append(f"<td{mark}>{printed(metric, mean)}{spread}")
        rows.append(f"<tr><td>{html.escape(method)}{''.join(cells)}")
    return f"<table>{''.join(rows)}</table>"


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
