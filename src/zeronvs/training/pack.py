"""Packing training images into a few arrays that one process keeps in memory.

Frames of posed scenes become centre squares with their camera and dense depth; single photographs
become squares with a relative disparity.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from zeronvs._core.files import write_aside
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.datasets.posed_scenes import crop_square, open_posed_scene

PHOTO_SIZE_PX = 176
"""Photographs are kept larger than the model's image so that crops can be drawn from them."""


@dataclass(frozen=True)
class TrainingPack:
    """All training images in memory."""

    frame_image: UInt8[Tensor, "frames 3 size size"]
    frame_depth_z: Float[Tensor, "frames size size"]
    """float16, in units of the frame's 20 % quantile depth; 0 = unknown."""
    frame_quantile_depth: Float[Tensor, " frames"]
    """20 % quantile of the frame's depth, scene units."""
    frame_camera_to_world: Float[Tensor, "frames 4 4"]
    frame_intrinsics_px: Float[Tensor, "frames 3 3"]
    frame_scene: Int[Tensor, " frames"]
    photo_image: UInt8[Tensor, "photos 3 larger larger"]
    photo_disparity: UInt8[Tensor, "photos larger larger"]

    def save(self, path: Path) -> None:
        """Write the pack as one safetensors file."""
        with write_aside(path) as aside:
            save_file({k: v.contiguous() for k, v in vars(self).items()}, aside)

    @classmethod
    def load(cls, path: Path) -> "TrainingPack":
        """Read a pack."""
        return cls(**load_file(path))


def pack_images(
    scene_folders: list[Path],
    photo_folders: list[Path],
    *,
    size_px: int = 128,
    progress: Progress = silent,
) -> TrainingPack:
    """Read posed scenes and photographs into a pack.

    Args:
        scene_folders: Folders that hold `scene.json`; frames without any depth are left out.
        photo_folders: Folders of `NAME.jpg` with `NAME_teacher.jpg` disparities beside them.
        size_px: Side of the posed frames.
        progress: Told of every folder.
    """
    columns: dict[str, list] = {name: [] for name in TrainingPack.__dataclass_fields__}
    for number, folder in enumerate(scene_folders):
        scene = open_posed_scene(folder)
        for index in range(len(scene)):
            view = crop_square(scene.view(index), size_px)
            assert view.depth_z is not None
            known = view.depth_z[view.depth_z > 0]
            if len(known) < 0.5 * view.depth_z.numel():
                continue
            quantile = torch.quantile(known, 0.2)
            columns["frame_image"].append(_to_bytes(view.image))
            columns["frame_depth_z"].append((view.depth_z / quantile).half())
            columns["frame_quantile_depth"].append(quantile)
            columns["frame_camera_to_world"].append(view.camera.camera_to_world)
            columns["frame_intrinsics_px"].append(view.camera.intrinsics_px)
            columns["frame_scene"].append(torch.tensor(number))
        progress(ProgressEvent("pack scenes", number + 1, len(scene_folders)))
    photos = [
        path
        for folder in photo_folders
        for path in sorted(folder.glob("*.jpg"))
        if not path.stem.endswith("_teacher")
        and path.with_name(f"{path.stem}_teacher.jpg").exists()
    ]
    for number, path in enumerate(photos):
        image = _square_bytes(path, "RGB")
        disparity = _square_bytes(path.with_name(f"{path.stem}_teacher.jpg"), "L")
        columns["photo_image"].append(torch.from_numpy(image).permute(2, 0, 1))
        columns["photo_disparity"].append(torch.from_numpy(disparity))
        progress(ProgressEvent("pack photos", number + 1, len(photos)))
    return TrainingPack(**{name: torch.stack(values) for name, values in columns.items()})


def _to_bytes(image: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    return (image * 255).round().to(torch.uint8)


def _square_bytes(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as opened:
        picture = opened.convert(mode)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.array(picture.resize((PHOTO_SIZE_PX, PHOTO_SIZE_PX), Image.Resampling.LANCZOS, box))
