"""Figure 9 of the paper: how much backgrounds vary over seeds, with and without anchoring.

Plain score distillation seeks the mode, so that what the photograph does not show becomes much the
same for every seed; anchors are samples. Diversity is the mean pairwise perceptual distance between
seeds of the same rear view, and the standard deviation of its pixels.
"""

import html
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_bytes, write_json
from zeronvs._core.progress import Progress, silent
from zeronvs.cameras.camera import Camera
from zeronvs.evaluation.image_metrics import BACKBONES
from zeronvs.evaluation.report_page import markdown, page, picture, table
from zeronvs.evaluation.study_build import shared_camera
from zeronvs.exports.export import render_frames
from zeronvs.formats.images import contact_sheet, write_image
from zeronvs.perceptual import PerceptualDistance
from zeronvs.recipes.run_folder import FinishedRun, open_run, path_cameras

SCHEMA = 1
"""Version of the layout of metrics.json."""
CAMERAS = 8
REAR = [3, 4, 5]
"""Cameras of the way all round that look at the back: 135, 180 and 225 degrees."""
HEAT_FULL = 0.3
"""Standard deviation that is white in a heat map."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Backgrounds:
    """Rear views of one photograph by one method, over seeds."""

    photograph: str
    anchors: int
    seeds: tuple[int, ...]
    views: Float[Tensor, "seeds views 3 h w"]
    distance: float | None
    """Mean pairwise ST-LPIPS between seeds; None without its weights."""

    @property
    def method(self) -> str:
        """Name of the method."""
        return f"{self.anchors} anchors" if self.anchors else "without anchors"

    @property
    def deviation(self) -> Float[Tensor, "views h w"]:
        """Standard deviation over seeds of each pixel, mean over channels."""
        return self.views.std(dim=0).mean(dim=1)

    @property
    def resolution(self) -> str:
        """Width x height of the views, pixels."""
        height_px, width_px = self.views.shape[-2:]
        return f"{width_px}x{height_px}"


@torch.no_grad()
def evaluate_figure9(
    run_dirs: Sequence[Path],
    perceptual: PerceptualDistance | None,
    *,
    size_px: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Backgrounds]:
    """Render and compare the rear views of runs, by photograph and number of anchors.

    Args:
        run_dirs: Two seeds or more of each photograph and method.
        perceptual: ST-LPIPS.
        size_px: Longer side of the views.
        device: Where scenes are rendered.
        progress: Called at every view.

    Raises:
        InputError: A run cannot be used, its preset has no anchors, a seed is there twice or alone,
            or runs of one photograph have different cameras.
    """
    groups: dict[tuple[str, int], dict[int, Path]] = defaultdict(dict)
    for folder in run_dirs:
        anchors, seed = _anchors_and_seed(folder)
        seeds = groups[open_run(folder).title, anchors]
        if seed in seeds:
            raise InputError(f"{seeds[seed]} and {folder} are the same photograph, method and seed")
        seeds[seed] = folder
    for (title, _), seeds in groups.items():
        if len(seeds) < 2:
            (folder,) = seeds.values()
            raise InputError(
                f"{folder} is the only seed of {title} by its method; give two or more"
            )
    first: dict[str, FinishedRun] = {}
    found = []
    for (title, anchors), seeds in sorted(groups.items()):
        views = []
        for _, folder in sorted(seeds.items()):
            run = open_run(folder, device)
            cameras = _rear_cameras(first.setdefault(title, run), run, size_px)
            views.append(render_frames(run.scene, cameras, progress, stage=folder.name)[0])
        images = torch.stack(views)
        found.append(
            Backgrounds(
                photograph=title,
                anchors=anchors,
                seeds=tuple(sorted(seeds)),
                views=images,
                distance=None if perceptual is None else pairwise_distance(images, perceptual),
            )
        )
    return found


def pairwise_distance(
    views: Float[Tensor, "seeds views 3 h w"], perceptual: PerceptualDistance
) -> float:
    """Return the mean distance between the same view of two seeds, over all pairs of seeds."""
    features = [perceptual.features(images) for images in views]
    distances = [perceptual.compare(a, b).mean() for a, b in combinations(features, 2)]
    return float(torch.stack(distances).mean())


def diversity_rows(groups: Sequence[Backgrounds]) -> list[list[str]]:
    """Return the table: a row for each photograph and method."""
    rows = [["photograph", "method", "seeds", "ST-LPIPS between seeds", "deviation of pixels"]]
    for group in groups:
        distance = "" if group.distance is None else f"{group.distance:.3f}"
        seeds, deviation = str(len(group.seeds)), f"{float(group.deviation.mean()):.3f}"
        rows.append([group.photograph, group.method, seeds, distance, deviation])
    return rows


def notes(groups: Sequence[Backgrounds]) -> list[str]:
    """Return what a reader must know to judge the numbers."""
    return [
        f"Views at 135, 180 and 225 degrees of the way all round, {groups[0].resolution} pixels; "
        "higher is more varied. Noise is varied, too: look at the figure.",
        "Published: no number; three seeds, plain score distillation with much the same grey "
        "background, anchoring with different ones.",
    ]


def write_figure9(out: Path, groups: Sequence[Backgrounds]) -> list[Path]:
    """Write `metrics.json`, `table.md`, `report.html`, and a figure for each photograph.

    Returns:
        The files.
    """
    title, rows = "Figure 9: backgrounds over seeds", diversity_rows(groups)
    remarks = notes(groups)
    content = {"schema": SCHEMA, "kind": "fig9", "results": _records(groups), "notes": remarks}
    write_json(out / "metrics.json", content)
    text = f"# {title}\n\n{markdown(rows)}\n" + "".join(f"- {line}\n" for line in remarks)
    write_bytes(out / "table.md", text.encode())
    parts = [f"<h1>{title}</h1>", table(rows), *(f"<p>{html.escape(n)}</p>" for n in remarks)]
    files = [out / "metrics.json", out / "table.md", out / "report.html"]
    photographs = dict.fromkeys(group.photograph for group in groups)
    for number, name in enumerate(photographs):
        own = [group for group in groups if group.photograph == name]
        sheet, path = figure(own), out / f"figure9_{number}.png"
        write_image(path, sheet)
        files.append(path)
        lines = "; ".join(
            f"{group.method}, seeds {', '.join(map(str, group.seeds))}" for group in own
        )
        heat = f"standard deviation over seeds, white at {HEAT_FULL}"
        caption = f"{name}, from behind, a row each: {lines}. Last column: {heat}"
        parts.append(f"<h2>{html.escape(caption)}</h2>" + picture(sheet, caption))
    write_bytes(out / "report.html", page(title, parts).encode())
    return files


def figure(groups: Sequence[Backgrounds]) -> Float[Tensor, "3 sheet_h sheet_w"]:
    """Return the view from behind of every seed, a row for each method, then its heat map."""
    behind = len(REAR) // 2
    columns = max(len(group.seeds) for group in groups)
    cells = []
    for group in groups:
        shown = group.views[:, behind]
        missing = torch.ones(columns - len(shown), *shown.shape[1:])
        cells += [shown, missing, heat_map(group.deviation[behind])[None]]
    return contact_sheet(torch.cat(cells), columns=columns + 1)


def heat_map(values: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """Return values from 0 (black) over red and yellow to `HEAT_FULL` (white)."""
    share = 3 * values / HEAT_FULL
    return torch.stack([share, share - 1, share - 2]).clamp(0, 1)


def _rear_cameras(first: FinishedRun, run: FinishedRun, size_px: int) -> Camera:
    """Return the cameras behind, the same for all runs of a photograph."""
    camera = shared_camera(first, run)
    around = path_cameras(first.path, camera, CAMERAS, size_px, first.orbit_distances)
    return around[REAR]


def _anchors_and_seed(run_dir: Path) -> tuple[int, int]:
    """Return the number of anchors and the seed of a run.

    Raises:
        InputError: It is no run, or its preset distils nothing.
    """
    settings = read_json(run_dir / "settings.json")
    try:
        return int(settings["recipe"]["anchors"]["count"]), int(settings["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run_dir} is no run of a radiance field, so it has no anchors; make it with "
            "`zeronvs scene --preset field --anchors 2` (or 0), fast or paper"
        ) from error


def _records(groups: Sequence[Backgrounds]) -> list[dict[str, Any]]:
    """Return every number of the table."""
    records = []
    for group in groups:
        values = {
            "ST-LPIPS between seeds": group.distance,
            "deviation of pixels": float(group.deviation.mean()),
        }
        for metric, value in values.items():
            records.append(
                {
                    "photograph": group.photograph,
                    "method": group.method,
                    "metric": metric,
                    "backbone": BACKBONES["ST-LPIPS"] if "LPIPS" in metric else None,
                    "resolution": group.resolution,
                    "views": len(REAR),
                    "seeds": list(group.seeds),
                    "value": value,
                }
            )
    return records
