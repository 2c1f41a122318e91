"""A folder of procedural scenes with a pairs.json, written as posed photographs."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zeronvs.datasets.procedural import random_cameras, random_scene
from zeronvs.formats.images import write_image

WIDTH, HEIGHT = 96, 80


def write_scene(folder: Path, seed: int, *, measured: bool) -> None:
    """Write three frames; with depth images, or else with disparities and sparse points."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    textures = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    scene = random_scene(generator, textures)
    cameras = random_cameras(generator, 3, 0.9, (HEIGHT, WIDTH))
    frames, sparse = [], {"frame": [], "uv": [], "depth_z": []}
    for index in range(3):
        view = scene.render(cameras[index])
        write_image(folder / f"{index}.png", view.image)
        pose = view.camera.camera_to_world[:3].clone()
        pose[:, 1:3] *= -1  # OpenGL axes to OpenCV axes
        intrinsics = view.camera.intrinsics_px
        frames.append(
            {"file": f"{index}.png", "w": WIDTH, "h": HEIGHT, "c2w": pose.tolist()}
            | {"fx": float(intrinsics[0, 0]), "fy": float(intrinsics[1, 1])}
            | {"cx": float(intrinsics[0, 2]), "cy": float(intrinsics[1, 2])}
        )
        depth = view.depth_z.numpy()
        if measured:
            values = (depth * 1000).round().astype(np.uint16)
            Image.fromarray(values).save(folder / f"{index}_depth.png")
            continue
        disparity = 1 / depth
        grey = (disparity - disparity.min()) / (disparity.max() - disparity.min())
        Image.fromarray((grey * 255).astype(np.uint8)).save(
            folder / f"{index}_teacher.jpg", quality=98
        )
        for row, column in np.random.default_rng(index).integers(0, HEIGHT, (40, 2)):
            sparse["frame"].append(index)
            sparse["uv"].append((column + 0.5, row + 0.5))
            sparse["depth_z"].append(depth[row, column])
    content = {"frames": frames, "depth_png_units_per_scene_unit": 1000}
    (folder / "scene.json").write_text(json.dumps(content))
    if not measured:
        np.savez(folder / "sparse.npz", **{name: np.array(v) for name, v in sparse.items()})


def write_pairs(folder: Path) -> None:
    """Write two scenes and five pairs in two classes."""
    write_scene(folder / "room", 3, measured=True)
    write_scene(folder / "hall", 8, measured=False)
    pairs = [
        {"scene": scene, "input": f"{a}.png", "target": f"{b}.png", "motion_class": label}
        for scene, a, b, label in (
            ("room", 0, 1, "large"),
            ("room", 1, 0, "small"),
            ("hall", 0, 1, "large"),
            ("hall", 2, 1, "small"),
            ("room", 0, 0, "small"),
        )
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs))
