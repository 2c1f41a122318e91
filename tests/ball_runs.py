"""Run folders of scenes that are one coloured ball, written without making them."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from zeronvs._core.files import write_json
from zeronvs.recipes.prepare import canonical_camera
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.splats import GaussianSplats

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)


def write_run(
    folder: Path,
    title: str,
    colour: tuple[float, float, float],
    *,
    size_px: tuple[int, int] = (24, 24),
    fov_y_rad: float = 0.8,
    elevation_rad: float = 0.3,
    seed: int = 0,
    anchors: int | None = None,
    height: float = 0.0,
) -> Path:
    """Write a finished run whose scene is a ball of one colour beside the origin.

    Args:
        anchors: As a run of a radiance field records them; None: as a run without distillation.
        height: Of the ball.
    """
    camera = canonical_camera(fov_y_rad, elevation_rad, size_px)
    values = {
        "means": torch.tensor([[0.0, 0.25, height]]),
        "scales": torch.full((1, 3), 0.08),
        "rotations": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "opacities": torch.ones(1),
        "colors": torch.tensor([colour]),
    }
    scene = GaussianSplats(**{item.name: values[item.name] for item in fields(GaussianSplats)})
    (folder / "scene").mkdir(parents=True)
    SplatScene(scene).save(folder / "scene" / "scene.safetensors")
    record = {
        "title": title,
        "input_camera": {
            "camera_to_world": camera.camera_to_world.tolist(),
            "fov_y_rad": float(camera.fov_y_rad),
            "height_px": size_px[0],
            "width_px": size_px[1],
        },
        "orbit_distances": [1.0, 0.9, 0.8, 0.9],
        "size_px": 24,
        "path": "orbit",
    }
    write_json(folder / "run.json", record)
    settings: dict[str, Any] = {"seed": seed}
    if anchors is not None:
        settings |= {"recipe": {"anchors": {"count": anchors}}}
    write_json(folder / "settings.json", settings)
    return folder
