"""Training images of posed scenes and photographs, packed into arrays that fit into memory.

Frames of posed scenes become centre squares with their camera and dense depth; single photographs
become squares with a relative disparity.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import center_window
from zeronvs.datasets.sources.posed import crop_square, open_posed_scene

PHOTO_SIZE_PX = 256
"""Side of the stored squares of photographs, from which crops are drawn."""
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif")
MIN_KNOWN_SHARE = 0.5
"""Frames with less known depth are left out."""


@dataclass(frozen=True)
class TrainingPack:
    """All training images, in memory."""

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

    def scenes(self) -> list[Tensor]:
        """Return the frame indices of each scene."""
        return [torch.nonzero(self.frame_scene == n)[:, 0] for n in self.frame_scene.unique()]


def open_pack(data: Path, path: Path, size_px: int, progress: Progress = silent) -> TrainingPack:
    """Read a packed file; where it is missing, pack a folder of data and write it.

    Args:
        data: `posed/train/*/scene.json`, and `photos/*/NAME.jpg` with `NAME_teacher.jpg`.

    Raises:
        InputError: The folder lacks posed scenes or photographs, or the file is damaged.
    """
    if path.exists():
        try:
            return TrainingPack(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}). Remove it to pack anew") from error
    scenes = sorted(folder.parent for folder in data.glob("posed/train/*/scene.json"))
    photos = sorted(folder for folder in data.glob("photos/*") if folder.is_dir())
    if not scenes or not photos:
        raise InputError(
            f"{data} has {len(scenes)} posed scenes (posed/train/*/scene.json) and {len(photos)} "
            "folders of photographs (photos/*); both are needed"
        )
    pack = pack_images(scenes, photos, size_px=size_px, progress=progress)
    with write_aside(path) as aside:
        save_file({name: value.contiguous() for name, value in vars(pack).items()}, aside)
    return pack


def pack_images(
    scene_folders: list[Path],
    photo_folders: list[Path],
    *,
    size_px: int = 128,
    progress: Progress = silent,
) -> TrainingPack:
    """Read posed scenes and photographs.

    Args:
        scene_folders: Folders with `scene.json`; frames with too little depth are left out.
        photo_folders: Folders with `NAME.jpg` and disparities `NAME_teacher.jpg`.

    Raises:
        InputError: An image cannot be read, or there is none of a kind.
    """
    columns: dict[str, list] = {name: [] for name in TrainingPack.__dataclass_fields__}
    for number, folder in enumerate(scene_folders):
        scene = open_posed_scene(folder)
        for index in range(len(scene)):
            view = crop_square(scene.view(index), size_px)
            assert view.depth_z is not None
            known = view.depth_z[view.depth_z > 0]
            if len(known) < MIN_KNOWN_SHARE * view.depth_z.numel():
                continue
            quantile = torch.quantile(known, 0.2)
            columns["frame_image"].append((view.image * 255).round().to(torch.uint8))
            columns["frame_depth_z"].append((view.depth_z / quantile).half())
            columns["frame_quantile_depth"].append(quantile)
            columns["frame_camera_to_world"].append(view.camera.camera_to_world)
            columns["frame_intrinsics_px"].append(view.camera.intrinsics_px)
            columns["frame_scene"].append(torch.tensor(number))
        progress(ProgressEvent("pack scenes", number + 1, len(scene_folders)))
    photos = [
        path
        for folder in photo_folders
        for path in photographs_in(folder)
        if teacher_of(path).exists()
    ]
    for number, path in enumerate(photos):
        columns["photo_image"].append(read_square(path, "RGB", PHOTO_SIZE_PX))
        columns["photo_disparity"].append(read_square(teacher_of(path), "L", PHOTO_SIZE_PX)[0])
        progress(ProgressEvent("pack photos", number + 1, len(photos)))
    for name, what in (("frame_image", "frames with depth"), ("photo_image", "photographs")):
        if not columns[name]:
            raise InputError(f"there are no {what} among the training images")
    return TrainingPack(**{name: torch.stack(values) for name, values in columns.items()})


def photographs_in(folder: Path) -> list[Path]:
    """Return the photographs of a folder, without the disparities."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
    return [path for path in paths if not path.stem.endswith("_teacher")]


def teacher_of(path: Path) -> Path:
    """Return the path of a photograph's relative disparity."""
    return path.with_name(f"{path.stem}_teacher.jpg")


def read_square(path: Path, mode: str, size_px: int) -> UInt8[Tensor, "c s s"]:
    """Read the central square of an image.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert(mode)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    rows, columns = center_window(image.height, image.width)
    box = (columns.start, rows.start, columns.stop, rows.stop)
    resized = np.array(image.resize((size_px, size_px), Image.Resampling.LANCZOS, box))
    return torch.from_numpy(resized.reshape(size_px, size_px, -1)).permute(2, 0, 1)
