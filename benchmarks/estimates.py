"""Errors of field of view, elevation, scale and depth on photographs with known cameras, by source.

    python benchmarks/estimates.py FOLDER_OF_POSED_SCENES [--frames 12] [--depth-model NAME]

FOLDER has scenes of `zeronvs.datasets.sources.posed` in `val/` and, for the elevation, in `train/`.
Prints the table of docs/numbers.md. Up is known where people hold the camera level: it is the
direction perpendicular to the right axes of all frames (`level_up`).
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro

from zeronvs.cameras.view import View
from zeronvs.datasets.sources.posed import PosedScene, open_posed_scene
from zeronvs.depth.pretrained import load_depth_model
from zeronvs.formats.images import from_bytes
from zeronvs.photo.camera_estimate import CameraEstimate, estimate_camera
from zeronvs.photo.estimates import DEFAULT_ELEVATION_RAD, DEFAULT_FOV_Y_RAD
from zeronvs.protocols import Geometry, GeometryEstimator

MAX_ROLL_RAD, MIN_TURN_RAD, MIN_FRAMES = math.radians(3), math.radians(10), 8
"""Cameras are taken for level if they lean by less, turn by more, and there are so many."""
MIN_POINTS = 50


@dataclass(frozen=True)
class Errors:
    """Absolute errors by quantity and source, and the scenes that they come from."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    scenes: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, scene: str, quantity: str, source: str, error: float) -> None:
        """Keep one error."""
        self.values[quantity, source].append(abs(error))
        self.scenes[quantity, source].add(scene)


def level_up(scene: PosedScene) -> np.ndarray | None:
    """Return the world's up direction if the scene's cameras were held level."""
    if len(scene) < MIN_FRAMES:
        return None
    poses = np.stack([scene.camera(i).camera_to_world.numpy() for i in range(len(scene))])
    right, up = poses[:, :3, 0], poses[:, :3, 1]
    _, strength, directions = np.linalg.svd(right, full_matrices=False)
    found = directions[2] * np.sign((up @ directions[2]).mean())
    roll_rad = np.arcsin(np.clip(right @ found, -1, 1))
    turn_rad = math.asin(min(1.0, strength[1] / math.sqrt(len(scene))))
    level = np.sqrt((roll_rad**2).mean()) <= MAX_ROLL_RAD and turn_rad >= MIN_TURN_RAD
    return found if level else None


def kind_of_source(source: str) -> str:
    """Return the source of an estimate without the numbers in its text."""
    for kind in ("vertical lines", "ground plane"):
        if source.startswith(kind):
            return kind
    return source.split(" (")[0]


def known_depth(scene: PosedScene, index: int) -> torch.Tensor:
    """Return measured depth, else triangulated; 0 = unknown."""
    depth_z = scene.measured_depth(index)
    if (depth_z > 0).mean() < 0.1:
        depth_z = np.zeros_like(depth_z)
        row, column, sparse = scene.sparse_points(index)
        depth_z[row, column] = sparse
    return torch.from_numpy(depth_z)


def measure(
    scene: PosedScene, index: int, estimator: GeometryEstimator
) -> tuple[View, Geometry, CameraEstimate]:
    """Estimate one frame as if nothing about its camera were known."""
    image = from_bytes(scene.image(index))
    geometry = estimator.estimate(image[None])
    estimate = estimate_camera(image.shape[-2:], image=image, geometry=geometry)
    return View(image, scene.camera(index), known_depth(scene, index)), geometry, estimate


def add_lens(errors: Errors, name: str, view: View, geometry: Geometry, used: float) -> None:
    """Add errors of the field of view of the centre square, in degrees."""
    side_px, height_px = min(view.camera.image_size_px), view.camera.image_size_px[0]
    focal_px = 0.5 * height_px / math.tan(0.5 * float(view.camera.fov_y_rad))
    true_rad = 2 * math.atan(0.5 * side_px / focal_px)
    guesses = {"default, 50 degrees": DEFAULT_FOV_Y_RAD}
    if geometry.fov_y_rad is not None:
        slope = math.tan(0.5 * float(geometry.fov_y_rad)) * side_px / height_px
        guesses |= {"depth model": 2 * math.atan(slope), "both, averaged (used)": used}
    for source, value in guesses.items():
        errors.add(name, "field of view, degrees", source, math.degrees(value - true_rad))


def add_depth(errors: Errors, name: str, view: View, geometry: Geometry) -> None:
    """Add the error of depth after its median is taken off, and that of the scale q."""
    assert view.depth_z is not None
    known = view.depth_z > 0
    if int(known.sum()) < MIN_POINTS:
        return
    height_px, width_px = known.shape
    centre = torch.zeros_like(known)
    centre[height_px // 3 : -(height_px // 3), width_px // 3 : -(width_px // 3)] = True
    predicted = geometry.depth_z[0]
    ratio = (predicted / view.depth_z)[known].log()
    error = float((ratio - ratio.median()).abs().median())
    errors.add(name, "depth, log ratio", "depth model", error)
    if int((known & centre).sum()) < MIN_POINTS // 2:
        return

    def log_scale(depth_z: torch.Tensor) -> float:
        return math.log(float(depth_z[known].quantile(0.2) / depth_z[known & centre].median()))

    truth = log_scale(view.depth_z)
    errors.add(name, "scene scale, log ratio", "depth model", log_scale(predicted) - truth)
    errors.add(name, "scene scale, log ratio", "default, 0.7", math.log(0.7) - truth)


def main(data: tyro.conf.Positional[Path], frames: int = 12, depth_model: str = "builtin") -> None:
    """Measure and print the table."""
    estimator, errors = load_depth_model(depth_model).estimator, Errors()
    for folder in sorted([*data.glob("val/*"), *data.glob("train/*")]):
        if not (folder / "scene.json").is_file():
            continue
        scene, held_out = open_posed_scene(folder), folder.parent.name == "val"
        up = level_up(scene)
        if up is None and not held_out:
            continue
        count = min(len(scene), frames if held_out else max(1, frames // 3))
        for index in np.linspace(0, len(scene) - 1, count).round().astype(int).tolist():
            view, geometry, estimate = measure(scene, index, estimator)
            if held_out:
                add_lens(errors, folder.name, view, geometry, estimate.fov_y_rad.value)
                add_depth(errors, folder.name, view, geometry)
            if up is None:
                continue
            elevation = estimate.elevation_rad
            true_rad = math.asin(float(view.camera.camera_to_world[:3, 2].numpy() @ up))
            where = "elevation, degrees" + ("" if held_out else " (train)")
            by_source = {
                "all": elevation.value,
                kind_of_source(elevation.source): elevation.value,
                "default, 5 degrees, everywhere": DEFAULT_ELEVATION_RAD,
            }
            for source, value in by_source.items():
                errors.add(folder.name, where, source, math.degrees(value - true_rad))
    print("| what | source | median | 90 % | frames | scenes |\n|---|---|---|---|---|---|")
    for (quantity, source), values in sorted(errors.values.items()):
        median, ninth = np.quantile(values, [0.5, 0.9])
        scenes = len(errors.scenes[quantity, source])
        print(f"| {quantity} | {source} | {median:.2g} | {ninth:.2g} | {len(values)} | {scenes} |")


if __name__ == "__main__":
    tyro.cli(main)
