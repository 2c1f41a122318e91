"""Procedural scenes, ray-traced in torch: exact images, cameras and depth without any file.

A scene is a room (seen from inside) with textured boxes and balls on its floor, lit by one distant
light. World z is up, the floor is z = 0. Used for training, as a source of shards, and in tests.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs._core.random import seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at
from zeronvs.cameras.rays import camera_rays
from zeronvs.cameras.view import View
from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews, check_split
from zeronvs.photo.photo import MIN_SIDE_PX, load_photo

AMBIENT = 0.55
FAR = 1e4
TEXTURE_PX = 256
TEXTURES_A_SCENE = 12
FOV_RANGE_DEG = (40.0, 75.0)
RENDER_PX = 512
"""Scenes are drawn at twice the size that is kept, which smooths their edges."""


@dataclass(frozen=True, eq=False)
class ProceduralScene:
    """Boxes (the first is the room) and balls, with a texture each."""

    box_center: Float[Tensor, "boxes 3"]
    box_half_size: Float[Tensor, "boxes 3"]
    box_yaw_rad: Float[Tensor, " boxes"]
    ball_center: Float[Tensor, "balls 3"]
    ball_radius: Float[Tensor, " balls"]
    textures: Float[Tensor, "objects 3 t t"]
    """RGB in [0, 1]; boxes first, then balls."""
    texture_size: Float[Tensor, " objects"]
    """Scene units that one copy of the texture covers."""
    light: Float[Tensor, " 3"]
    """Unit vector towards the light."""

    @torch.no_grad()
    def render(self, camera: Camera) -> View:
        """Return the view of a single camera with exact depth."""
        rays = camera_rays(camera)
        size = rays.origins.shape[:2]
        origin, direction = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
        distance, hit = self._first_hit(origin, direction)
        points = origin + direction * distance[:, None]
        color = torch.zeros_like(points)
        for index in range(len(self.textures)):
            chosen = torch.nonzero(hit == index)[:, 0]
            if len(chosen):
                color[chosen] = self._shade(index, points[chosen])
        image = color.reshape(*size, 3).permute(2, 0, 1)
        return View(image, camera, distance.reshape(size) * rays.z_per_unit_distance)

    def _first_hit(
        self, origin: Float[Tensor, "n 3"], direction: Float[Tensor, "n 3"]
    ) -> tuple[
        Float[Tensor, " n"],  # distance along the ray, scene units
        Int[Tensor, " n"],  # object
    ]:
        distances = []
        for index in range(len(self.box_center)):
            start = _turn(origin - self.box_center[index], -self.box_yaw_rad[index])
            heading = _turn(direction, -self.box_yaw_rad[index])
            inverse = 1.0 / torch.where(
                heading.abs() < 1e-8, torch.full_like(heading, 1e-8), heading
            )
            one = (-self.box_half_size[index] - start) * inverse
            other = (self.box_half_size[index] - start) * inverse
            entry = torch.minimum(one, other).amax(-1)
            leave = torch.maximum(one, other).amin(-1)
            if index == 0:
                distances.append(leave)
            else:
                missed = (entry > leave) | (entry < 1e-3)
                distances.append(torch.where(missed, torch.full_like(entry, FAR), entry))
        for index in range(len(self.ball_center)):
            start = origin - self.ball_center[index]
            half_b = (start * direction).sum(-1)
            inside = half_b**2 - (start**2).sum(-1) + self.ball_radius[index] ** 2
            entry = -half_b - inside.clamp_min(0).sqrt()
            missed = (inside <= 0) | (entry < 1e-3)
            distances.append(torch.where(missed, torch.full_like(entry, FAR), entry))
        distance, hit = torch.stack(distances).min(0)
        return distance, hit

    def _shade(self, index: int, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        boxes = len(self.box_center)
        if index < boxes:
            local = _turn(points - self.box_center[index], -self.box_yaw_rad[index])
            ratio = local / self.box_half_size[index]
            axis = ratio.abs().argmax(-1)
            normal = F.one_hot(axis, 3) * torch.gather(ratio, 1, axis[:, None]).sign()
            normal = _turn(normal.to(points), self.box_yaw_rad[index])
            if index == 0:
                normal = -normal
            u = torch.where(axis == 0, local[:, 1], local[:, 0])
            v = torch.where(axis == 2, local[:, 1], local[:, 2])
            # Floor, walls and ceiling of the room see different parts of the texture.
            u = u + axis * 0.37 * self.texture_size[index]
        else:
            local = points - self.ball_center[index - boxes]
            normal = local / self.ball_radius[index - boxes]
            u = torch.atan2(local[:, 1], local[:, 0]) * self.ball_radius[index - boxes]
            v = torch.asin(normal[:, 2].clamp(-1, 1)) * self.ball_radius[index - boxes]
        shading = AMBIENT + (1 - AMBIENT) * (normal @ self.light).clamp_min(0)
        # The texture is mirrored at its borders, so that it has no seams.
        phase = torch.stack([u, -v], -1) / self.texture_size[index]
        mirrored = 4 * (phase / 2 - torch.floor(phase / 2 + 0.5)).abs() - 1
        texel = F.grid_sample(
            self.textures[index][None],
            mirrored[None, None],
            align_corners=False,
            padding_mode="border",
        )[0, :, 0].T
        return (texel * shading[:, None]).clamp(0, 1)


def random_scene(generator: torch.Generator, textures: Float[Tensor, "n 3 t t"]) -> ProceduralScene:
    """Draw a room with 2 to 7 boxes and balls, wearing some of the textures."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    boxes = int(torch.randint(1, 5, (), generator=generator))
    balls = int(torch.randint(1, 4, (), generator=generator))
    room = torch.cat([uniform(1.6, 4.0, 2), uniform(0.8, 2.0, 1)])
    half_size = torch.cat([uniform(0.08, 0.45, boxes, 2), uniform(0.08, 0.6, boxes, 1)], 1)
    center = torch.cat([uniform(-0.9, 0.9, boxes, 2), half_size[:, 2:]], 1)
    radius = uniform(0.1, 0.4, balls)
    ball_center = torch.cat([uniform(-0.9, 0.9, balls, 2), radius[:, None]], 1)
    light = F.normalize(torch.cat([uniform(-1.0, 1.0, 2), uniform(0.5, 1.5, 1)]), dim=0)
    count = 1 + boxes + balls
    chosen = torch.randint(len(textures), (count,), generator=generator)
    size = torch.cat([uniform(1.5, 3.0, 1), uniform(0.4, 1.2, count - 1)])
    return ProceduralScene(
        torch.cat([torch.tensor([[0.0, 0.0, float(room[2])]]), center]),
        torch.cat([room[None], half_size]),
        torch.cat([torch.zeros(1), uniform(-math.pi, math.pi, boxes)]),
        ball_center,
        radius,
        textures[chosen],
        size,
        light,
    )


def random_cameras(
    generator: torch.Generator, count: int, fov_y_rad: float, image_size_px: tuple[int, int]
) -> Camera:
    """Draw cameras that face the middle of the room from one side, 1.1 to 1.6 units away."""
    azimuth = 2 * math.pi * torch.rand((), generator=generator)
    azimuth = azimuth + 1.2 * (torch.rand(count, generator=generator) - 0.5)
    elevation = 0.1 + 0.6 * torch.rand(count, generator=generator)
    distance = 1.1 + 0.5 * torch.rand(count, generator=generator)
    position = distance[:, None] * torch.stack(
        [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], -1
    )
    target = torch.tensor([0.0, 0.0, 0.25]) + 0.25 * (
        torch.rand(count, 3, generator=generator) - 0.5
    )
    return Camera.from_fov(look_at(position, target), fov_y_rad, image_size_px)


def _turn(vector: Float[Tensor, "*n 3"], yaw_rad: Tensor) -> Float[Tensor, "*n 3"]:
    cosine, sine = torch.cos(yaw_rad), torch.sin(yaw_rad)
    x, y, z = vector.unbind(-1)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y, z], -1)


class SyntheticSource:
    """Rooms with boxes and balls; scene k of a seed and a split is always the same."""

    def __init__(
        self, scenes: int, frames: int, *, seed: int, split: str, photos: Path | None = None
    ) -> None:
        """Prepare the scenes.

        Args:
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
            # "_teacher" and "_depth" images are maps, not photographs.
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
