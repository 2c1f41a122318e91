"""The paper's Tables 1 and 2: ours with its spread over seeds, the published value, the difference.

Spread is the standard deviation over seeds of the mean over scenes. The published value of ZeroNVS
is given for all scenes of the table and for those that were measured; the difference is to the
latter.
"""

import html
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from zeronvs._core.files import write_bytes, write_json
from zeronvs.evaluation.benchmark import METHODS, SCALES, BenchmarkResult
from zeronvs.evaluation.image_metrics import MetricRecord, better, printed
from zeronvs.evaluation.protocols.protocol import METRICS
from zeronvs.evaluation.report_page import markdown, page, picture, table
from zeronvs.evaluation.views import OURS
from zeronvs.formats.images import from_bytes

TableName = Literal["table1", "table2"]
SCHEMA = 1
"""Version of the layout of metrics.json."""
PUBLISHED_LPIPS = "LPIPS (VGG16)"
"""The backbone of the published LPIPS."""
Rows = list[list[str]]


def paper_rows(result: BenchmarkResult, name: TableName) -> Rows:
    """Return the paper's table with ours: scales by the search, as all zero-shot rows have them."""
    heading = ["", *(f"{metric} ({better(_ours(metric))} is better)" for metric in METRICS)]
    rows = [heading]
    for method, values in result.protocol.tables[name].items():
        rows.append([f"{method}, published", *(printed(m, values[m]) for m in METRICS)])
    scenes = result.scenes
    if result.missing:
        count = f"ZeroNVS, published, on the scenes measured here ({len(scenes)})"
        rows.append([count, *(printed(m, result.protocol.published(scenes, m)) for m in METRICS)])
    for method in METHODS:
        label = "ours: the scene" if method == OURS else method
        rows.append([label, *(_cell(result, method, "oracle", _ours(m)) for m in METRICS)])
    rows.append(["ours minus published", *(_difference(result, m) for m in METRICS)])
    return rows


def scale_rows(result: BenchmarkResult) -> Rows:
    """Return every metric of every method at every scale."""
    rows = [["metric", "method", *(f"scale: {name}" for name in SCALES)]]
    for metric in result.metrics:
        for method in METHODS:
            cells = [_cell(result, method, scale, metric) for scale in SCALES]
            if any(cell != "" for cell in cells):
                rows.append([metric, method, *cells])
    return rows


def scene_rows(result: BenchmarkResult) -> Rows:
    """Return each scene: its scales, and ours beside the published value."""
    measured = [metric for metric in METRICS if _ours(metric) in result.metrics]
    heading = ["scene", "views", *(f"g: {name}" for name in SCALES)]
    heading += [f"{metric}: {kind}" for metric in measured for kind in ("ours", "published")]
    rows = [heading]
    for scene in result.scenes:
        items = [item for item in result.scores if item.scene == scene]
        row = [scene, str(items[0].views)]
        for scale in SCALES:
            found = [i.scores[OURS][scale].scale for i in items if scale in i.scores[OURS]]
            row.append(f"{statistics.fmean(found):.2f}" if found else "")
        for metric in measured:
            values = [item.scores[OURS]["oracle"].metrics[_ours(metric)] for item in items]
            published = result.protocol.scenes[scene][metric]
            row += [printed(metric, statistics.fmean(values)), printed(metric, published)]
        rows.append(row)
    return rows


def write_table(
    out: Path, name: TableName, results: Sequence[BenchmarkResult], *, settings: dict[str, Any]
) -> list[Path]:
    """Write `metrics.json`, `table.md` and `report.html`.

    Args:
        out: The folder.
        name: The table of the paper.
        results: One for each data set of the table that was measured.
        settings: How the scenes were made, for the reader.

    Returns:
        The files.
    """
    content = {
        "schema": SCHEMA,
        "kind": name,
        "settings": settings,
        "tables": [_as_json(result, name) for result in results],
    }
    write_json(out / "metrics.json", content)
    title = f"Table {name.removeprefix('table')}: novel views of single images, zero-shot"
    text, parts = f"# {title}\n", [f"<h1>{html.escape(title)}</h1>"]
    for result in results:
        dataset = result.protocol.name
        text += f"\n## {dataset}\n\n{markdown(paper_rows(result, name))}"
        text += f"\nBy scale:\n\n{markdown(scale_rows(result))}"
        text += f"\nBy scene:\n\n{markdown(scene_rows(result))}"
        text += "".join(f"\n- {note}" for note in notes(result)) + "\n"
        parts.append(f"<h2>{html.escape(dataset)}</h2>" + table(paper_rows(result, name)))
        parts.append("<h3>By scale</h3>" + table(scale_rows(result)))
        parts.append("<h3>By scene</h3>" + table(scene_rows(result)))
        parts += [f"<p>{html.escape(note)}</p>" for note in notes(result)]
        for scene, path in result.sheets.items():
            with Image.open(path) as image:
                sheet = from_bytes(np.array(image.convert("RGB")))
            caption = f"{scene}: input, truth, then the scene at the scales {', '.join(SCALES)}"
            parts.append(f"<h3>{html.escape(caption)}</h3>" + picture(sheet, caption))
    parts.append(f"<p>{html.escape(', '.join(f'{k}: {v}' for k, v in settings.items()))}</p>")
    write_bytes(out / "table.md", text.encode())
    write_bytes(out / "report.html", page(title, parts).encode())
    return [out / "metrics.json", out / "table.md", out / "report.html"]


def notes(result: BenchmarkResult) -> list[str]:
    """Return what a reader must know to compare the numbers."""
    seeds = sorted({item.seed for item in result.scores})
    views = sorted({item.views for item in result.scores})
    height_px, width_px = result.protocol.image_size_px
    lines = [
        f"{len(result.scenes)} of {len(result.protocol.scenes)} scenes, {width_px}x{height_px} "
        f"pixels, {', '.join(map(str, views))} views each, seeds {', '.join(map(str, seeds))}; "
        "± is the standard deviation over seeds.",
        "The published numbers were measured at scales that a search over the true views chose, "
        "as the column oracle; depth and estimated do not see the measured views.",
    ]
    if result.missing:
        lines.append(f"Not measured: {', '.join(result.missing)}.")
    if PUBLISHED_LPIPS not in result.metrics:
        lines.append("LPIPS was not measured: there were no weights.")
    for item in result.scores:
        lines += [f"{item.scene}, seed {item.seed}: {note}" for note in item.notes]
    return list(dict.fromkeys(lines))


def _ours(metric: str) -> str:
    """Return our name of a metric of the paper."""
    return PUBLISHED_LPIPS if metric == "LPIPS" else metric


def _cell(result: BenchmarkResult, method: str, scale: str, metric: str) -> str:
    values = result.values(method, scale, metric)
    if not values:
        return ""
    spread = f" ± {printed(metric, statistics.stdev(values))}" if len(values) > 1 else ""
    return printed(metric, statistics.fmean(values)) + spread


def _difference(result: BenchmarkResult, metric: str) -> str:
    values = result.values(OURS, "oracle", _ours(metric))
    if not values:
        return ""
    off = statistics.fmean(values) - result.protocol.published(result.scenes, metric)
    return f"{'+' if off >= 0 else '-'}{printed(metric, abs(off))}"


def _as_json(result: BenchmarkResult, name: TableName) -> dict[str, Any]:
    """Return a table with every number that it is made of."""
    height_px, width_px = result.protocol.image_size_px
    records = []
    for item in result.scores:
        for method, columns in item.scores.items():
            for scale, score in columns.items():
                for metric, value in score.metrics.items():
                    record = MetricRecord(
                        metric=metric,
                        backbone=result.backbones[metric],
                        resolution=f"{width_px}x{height_px}",
                        views=item.views,
                        seed=item.seed,
                        value=value if math.isfinite(value) else None,
                    )
                    place = {"scene": item.scene, "method": method, "scale": scale}
                    records.append(place | {"g": score.scale} | asdict(record))
    summary = {}
    for metric in METRICS:
        values = result.values(OURS, "oracle", _ours(metric))
        published = result.protocol.published(result.scenes, metric)
        summary[metric] = {
            "ours": statistics.fmean(values) if values else None,
            "spread": statistics.stdev(values) if len(values) > 1 else None,
            "published": result.protocol.tables[name]["ZeroNVS"][metric],
            "published_these_scenes": published,
            "difference": statistics.fmean(values) - published if values else None,
        }
    return {
        "dataset": result.protocol.name,
        "scenes": result.scenes,
        "missing": list(result.missing),
        "summary": summary,
        "published": {
            method: dict(values) for method, values in result.protocol.tables[name].items()
        },
        "results": records,
        "notes": notes(result),
    }
