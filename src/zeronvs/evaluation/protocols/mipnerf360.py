"""Mip-NeRF 360 as it is published: `<scene>/sparse/0` and `<scene>/images`, or smaller copies.

Of `images_8`, `images_4`, `images_2` and `images`, the first that is there is read: all have 256
pixels along the shorter side.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at, rotation_angle_rad
from zeronvs.cameras.view import View
from zeronvs.datasets.framing import choose_frames, load_frames
from zeronvs.datasets.sources.colmap import ColmapSource, is_colmap
from zeronvs.datasets.sources.scene_source import find_scene_folders
from zeronvs.evaluation.protocols.protocol import (
    BenchmarkScene,
    Protocol,
    pca_normalized,
    spread_evenly,
)
from zeronvs.formats.images import from_bytes

IMAGE_FOLDERS = ("images_8", "images_4", "images_2", "images")


def find_captures(root: Path) -> dict[str, Path]:
    """Return the folders of scenes by name (`bicycle`).

    Raises:
        InputError: There is none.
    """
    found = find_scene_folders(root, is_colmap, what="sparse/0/cameras.bin")
    return {path.name: path for path in found.values()}


def input_index(normalized: Float[Tensor, "n 4 4"], rank: int) -> int:
    """Return the view at a place among those ordered by how little they are turned aside.

    Args:
        normalized: Poses of `pca_normalized`.
        rank: Place in the order of the angle between a camera and one that looks at the origin.
    """
    angle = rotation_angle_rad(normalized, look_at(normalized[:, :3, 3]))
    return int(angle.argsort()[rank])


def read_capture(
    folder: Path, name: str, protocol: Protocol, *, limit: int | None = None
) -> BenchmarkScene:
    """Read a scene.

    Args:
        folder: The scene's own folder.
        name: Its name in the protocol.
        protocol: That of Mip-NeRF 360.
        limit: At most so many targets, spread evenly; None: all.

    Raises:
        InputError: The model cannot be read, or the input's image.
    """
    settings = protocol.scenes[name]
    images = next((part for part in IMAGE_FOLDERS if (folder / part).is_dir()), None)
    source = ColmapSource(folder, images=images)
    scene = source.load(source.scene_ids()[0])
    notes = list(scene.notes)
    frames, half_slope = choose_frames(scene, notes)
    rank = int(settings["input_rank"])
    if len(frames) < max(rank + 1, 2):
        raise InputError(f"{folder} has {len(frames)} usable images; the input has rank {rank}")
    world = torch.stack([frame.camera.camera_to_world for frame in frames]).double()
    normalized, unit = pca_normalized(world)
    chosen = input_index(normalized, rank)
    if chosen != int(settings["input_view"]):
        notes.append(
            f"the input is image {chosen} ({frames[chosen].name}), as the published code chooses "
            f"it; the paper's table names image {int(settings['input_view'])}"
        )
    targets = spread_evenly([k for k in range(len(frames)) if k != chosen], limit)
    kept = [chosen, *targets]
    poses = dict(zip((frames[k].name for k in kept), normalized[kept].float(), strict=True))
    loaded = list(load_frames([frames[k] for k in kept], half_slope, notes))
    if not loaded or loaded[0].name != frames[chosen].name or len(loaded) < 2:
        raise InputError(f"{folder}: the input {frames[chosen].name} or every other is unreadable")
    camera = Camera.from_fov(
        torch.stack([poses[frame.name] for frame in loaded]),
        2 * math.atan(half_slope),
        protocol.image_size_px,
    )
    views = View(torch.stack([from_bytes(frame.image) for frame in loaded]), camera)
    position = normalized[chosen, :3, 3]
    return BenchmarkScene(
        name=name,
        input_view=views[0],
        targets=views[1:],
        target_names=tuple(frame.name for frame in loaded[1:]),
        elevation_rad=float(torch.atan2(position[2], position[:2].norm())),
        content_scale=float(settings["content_scale"]),
        published_scale=float(settings["scale"]),
        focus_distance=float(position.norm()),
        known_depth_z=torch.from_numpy(loaded[0].depth_z) / unit,
        notes=tuple(notes),
    )
