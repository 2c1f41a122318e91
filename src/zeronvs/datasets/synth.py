"""Procedural scenes as a source: exact images, cameras and depth in any number."""

import hashlib
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs._core.random import seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.datasets.procedural import ProceduralScene, random_cameras, random_scene
from zeronvs.datasets.sources.folders import check_split
from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews
from zeronvs.photo.photo import MIN_SIDE_PX, load_photo

TEXTURE_PX = 256
TEXTURES_A_SCENE = 12
FOV_RANGE_DEG = (40.0, 75.0)
RENDER_PX = 512
"""Scenes are drawn at twice the size that is kept, which smooths their edges."""


class SyntheticSource:
    """Rooms with boxes and balls; scene k of a seed and a split is always the same."""

    def __init__(
        self, scenes: int, frames: int, *, seed: int, split: str, photos: Path | None = None
    ) -> None:
        """Prepare the scenes.

        Args:
            scenes: How many.
            frames: Frames a scene.
            seed: Seed of all scenes.
            split: Its name; each split has scenes of its own.
            photos: Folder (with folders) of photographs that give the textures; drawn patterns if
                not given.

        Raises:
            InputError: The folder holds no photograph.
        """
        self._scenes, self._frames, self._seed, self._split = scenes, frames, seed, split
        self._photos: list[Path] = []
        if photos is not None:
            ends = (".jpg", ".jpeg", ".png", ".webp")
            self._photos = sorted(p for p in photos.rglob("*") if p.suffix.lower() in ends)
            # "_teacher" and "_depth" images are maps beside the photographs.
            aside = ("_teacher", "_depth")
            self._photos = [path for path in self._photos if not path.stem.endswith(aside)]
            if not self._photos:
                raise InputError(f"{photos}: there is no photograph in it")

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return `synthetic/<split>-<seed>-<number>`."""
        check_split(split, (self._split,))
        return [f"synthetic/{self._split}-{self._seed}-{k:06d}" for k in range(self._scenes)]

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one scene."""
        check_split(split, (self._split,))
        digest = hashlib.sha256(scene_id.encode()).digest()
        generator = seeded_generator(int.from_bytes(digest[:7], "big"))
        textures = torch.stack([self._texture(generator) for _ in range(TEXTURES_A_SCENE)])
        scene = random_scene(generator, textures)
        low, high = (math.radians(value) for value in FOV_RANGE_DEG)
        fov_y_rad = low + (high - low) * float(torch.rand((), generator=generator))
        cameras = random_cameras(generator, self._frames, fov_y_rad, (RENDER_PX, RENDER_PX))
        frames = tuple(
            SceneFrame(f"{k:06d}", cameras[k], partial(_read, scene, cameras[k]))
            for k in range(self._frames)
        )
        return SceneViews(scene_id, frames)

    def _texture(self, generator: torch.Generator) -> Float[Tensor, "3 t t"]:
        if not self._photos:
            return drawn_texture(generator, TEXTURE_PX)
        for _ in range(20):
            number = int(torch.randint(len(self._photos), (), generator=generator))
            try:
                image = load_photo(self._photos[number]).image
            except InputError:
                continue
            side = min(image.shape[-2:])
            part = max(MIN_SIDE_PX, int(side * (0.4 + 0.6 * torch.rand((), generator=generator))))
            top = int(torch.randint(image.shape[-2] - part + 1, (), generator=generator))
            left = int(torch.randint(image.shape[-1] - part + 1, (), generator=generator))
            crop = image[None, :, top : top + part, left : left + part]
            size = (TEXTURE_PX, TEXTURE_PX)
            return F.interpolate(crop, size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        raise InputError("20 photographs in a row could not be read")


def drawn_texture(generator: torch.Generator, size_px: int) -> Float[Tensor, "3 t t"]:
    """Draw a pattern: clouds, tiles, stripes or dots in random colours, with fine grain."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    grain = torch.zeros(1, 1, size_px, size_px)
    for level in range(2, 8):
        noise = uniform(1, 1, 2**level, 2**level) - 0.5
        grain += F.interpolate(noise, (size_px, size_px), mode="bicubic") * 0.7 ** (level - 2)
    grain = grain[0, 0]
    row, column = torch.meshgrid(*[torch.linspace(0, 1, size_px)] * 2, indexing="ij")
    count = int(2 + 8 * float(uniform(1)))
    angle = math.pi * float(uniform(1))
    along = row * math.sin(angle) + column * math.cos(angle)
    across = column * math.sin(angle) - row * math.cos(angle)
    kind = int(torch.randint(4, (), generator=generator))
    if kind == 0:
        pattern = (grain > 0).float()
    elif kind == 1:
        shift = torch.floor(along * count) * 0.5
        edge = torch.minimum((along * count) % 1, (across * count * 0.5 + shift) % 1)
        pattern = (edge > 0.08).float()
    elif kind == 2:
        pattern = ((along * count + 0.3 * grain) % 1 > 0.5).float()
    else:
        from_dot = torch.stack([(along * count) % 1 - 0.5, (across * count) % 1 - 0.5]).norm(dim=0)
        pattern = (from_dot > 0.3).float()
    colours = uniform(2, 3)
    image = torch.lerp(colours[0, :, None, None], colours[1, :, None, None], pattern)
    return (image + 0.25 * grain).clamp(0.02, 1)


def _read(scene: ProceduralScene, camera: Camera) -> FramePixels:
    view = scene.render(camera)
    image = (view.image.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()
    assert view.depth_z is not None
    return FramePixels(np.ascontiguousarray(image), view.depth_z.numpy())
