"""Data of the preset `builtin` on disk: a posed scene with depth, photographs with disparity."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_photo_data(data: Path) -> Path:
    """Write one posed scene of three frames and two photographs; return the folder."""
    scene, photos = data / "posed" / "train" / "room", data / "photos" / "kind"
    scene.mkdir(parents=True)
    photos.mkdir(parents=True)
    random = np.random.default_rng(0)
    frames = []
    for number in range(3):
        pose = np.eye(4)[:3]
        pose[0, 3] = 0.1 * number
        size = {"w": 48, "h": 48, "fx": 40, "fy": 40, "cx": 24, "cy": 24}
        frames.append({"file": f"{number}.jpg", "c2w": pose.tolist(), **size})
        pixels = random.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(scene / f"{number}.jpg")
        Image.fromarray(np.full((48, 48), 2000, np.uint16)).save(scene / f"{number}_depth.png")
    content = {"frames": frames, "depth_png_units_per_scene_unit": 1000}
    (scene / "scene.json").write_text(json.dumps(content))
    for number in range(2):
        pixels = random.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.jpg")
        grey = np.tile(np.arange(80, dtype=np.uint8) * 3, (60, 1))
        Image.fromarray(grey).save(photos / f"{number}_teacher.jpg")
    return data
