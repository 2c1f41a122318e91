"""Drawing training pairs: an input view with depth, and the image and camera of a target.

Three sources: pairs of posed frames; single photographs, carried away along their depth and asked
back (the photograph is the target, so the target is always real; after AdaMPI, arXiv:2205.11733);
and procedural scenes, whose geometry is exact.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import forward_warp, warp_view
from zeronvs.datasets.procedural import random_cameras, random_scene
from zeronvs.training.pack import TrainingPack


@dataclass(frozen=True, eq=False)
class Pair:
    """One training example, or a batch of them."""

    input_view: View
    target_view: View
    """Its depth is never looked at."""
    scene_scale: Tensor
    """20 % quantile of the input view's depth (the paper's q), scene units."""
    warped: tuple[Tensor, Tensor] | None = None
    """Of a batch: what the targets see of the input views, and where (see `forward_warp`)."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How pairs are drawn."""

    photo_share: float = 0.4
    procedural_share: float = 0.05
    near_share: float = 0.6
    """Share of posed pairs whose frames are close in the recording; the rest is uniform."""
    near_fraction: float = 0.25
    """Close means within this fraction of the recording."""
    mirror_share: float = 0.5


class PairStream(IterableDataset):
    """An endless stream of pairs; pair k is a function of the seed and of k alone.

    So a run that goes on draws what it would have drawn, with any number of loader processes.
    """

    def __init__(
        self, pack: TrainingPack, config: PairConfig, seed: int, *, batch: int = 1, first: int = 0
    ) -> None:
        """Remember where to draw from.

        Args:
            pack: Training images.
            config: How pairs are drawn.
            seed: Of the whole stream.
            batch: Pairs in one batch of the loader, which takes its processes in turn.
            first: Number of the first pair; a multiple of `batch`.
        """
        super().__init__()
        self.pack, self.config, self.seed = pack, config, seed
        self.batch, self.first = batch, first
        self.generator = torch.Generator()
        self.scenes = [
            frames
            for number in pack.frame_scene.unique()
            if len(frames := torch.nonzero(pack.frame_scene == number)[:, 0]) > 1
        ]
        # Long recordings repeat themselves: weight by the root of the number of frames.
        self.scene_weight = torch.tensor([len(frames) ** 0.5 for frames in self.scenes])
        self.size_px = pack.frame_image.shape[-1]

    def __iter__(self) -> Iterator[Pair]:
        """Yield pairs from the first on; a loader process yields its own batches."""
        worker = torch.utils.data.get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in itertools.count(start, step):
            for offset in range(self.batch):
                yield self.pair(self.first + number * self.batch + offset)

    def pair(self, number: int) -> Pair:
        """Draw the pair of this number."""
        self.generator.manual_seed((self.seed * 1_000_003 + number) % 2**63)
        draw = self._uniform()
        if draw < self.config.photo_share:
            pair = self._photo_pair()
        elif draw < self.config.photo_share + self.config.procedural_share:
            pair = self._procedural_pair()
        else:
            pair = self._posed_pair()
        if self._uniform() < self.config.mirror_share:
            pair = replace(
                pair, input_view=mirror(pair.input_view), target_view=mirror(pair.target_view)
            )
        return pair

    def _uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _index(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

    def _posed_pair(self) -> Pair:
        scene = int(torch.multinomial(self.scene_weight, 1, generator=self.generator))
        frames = self.scenes[scene]
        count = len(frames)
        first = self._index(count)
        if self._uniform() < self.config.near_share:
            reach = max(1, int(count * self.config.near_fraction))
            offset = (1 + self._index(reach)) * (1 if self._uniform() < 0.5 else -1)
            second = min(max(first + offset, 0), count - 1)
        else:
            second = self._index(count)
        if second == first:
            second = first - 1 if first > 0 else first + 1
        source, target = int(frames[first]), int(frames[second])
        scale = self.pack.frame_quantile_depth[source]
        return Pair(self._frame(source), self._frame(target), scale)

    def _frame(self, index: int) -> View:
        camera = Camera(
            self.pack.frame_camera_to_world[index],
            self.pack.frame_intrinsics_px[index],
            (self.size_px, self.size_px),
        )
        depth_z = self.pack.frame_depth_z[index].float() * self.pack.frame_quantile_depth[index]
        return View(self.pack.frame_image[index].float() / 255, camera, depth_z)

    def _photo_pair(self) -> Pair:
        target = self._photo_view()
        assert target.depth_z is not None
        middle = float(target.depth_z.median())
        # Around a point before the photographer: turn about it, and step aside, in or out.
        yaw, pitch = self._uniform(-0.6, 0.6), self._uniform(-0.25, 0.25)
        pose = orbit_pose(torch.tensor(yaw), torch.tensor(pitch), torch.tensor(middle))
        home = orbit_pose(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(middle))
        away = torch.linalg.inv(home) @ pose
        step = torch.tensor(
            [self._uniform(-1.0, 1.0), self._uniform(-0.5, 0.5), self._uniform(-1.0, 1.0)]
        )
        away[:3, 3] += 0.2 * self._uniform() * middle * step
        camera = replace(target.camera, camera_to_world=target.camera.camera_to_world @ away)
        batch = View(target.image[None], target.camera.batched(), target.depth_z[None])
        moved, _ = warp_view(batch, camera.batched())
        source = moved[0]
        assert source.depth_z is not None
        known = source.depth_z[source.depth_z > 0]
        if len(known) < 0.2 * source.depth_z.numel():
            return self._photo_pair()
        return Pair(source, target, torch.quantile(known, 0.2))

    def _photo_view(self) -> View:
        index = self._index(len(self.pack.photo_image))
        larger = self.pack.photo_image.shape[-1]
        side = int(self._uniform(float(self.size_px), larger + 1.0))
        top, left = self._index(larger - side + 1), self._index(larger - side + 1)
        window = (slice(top, top + side), slice(left, left + side))
        size = (self.size_px, self.size_px)
        image = self.pack.photo_image[index, :, *window].float()[None] / 255
        image = F.interpolate(image, size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        disparity = self.pack.photo_disparity[index, *window].float()[None, None] / 255
        disparity = F.interpolate(disparity, size, mode="bilinear")[0, 0]
        # Scale and shift of a relative disparity are unknown: draw how far the far end is.
        far_end = math.exp(self._uniform(math.log(0.1), math.log(0.6)))
        depth_z = 1.0 / (far_end + (1 - far_end) * disparity)
        fov_rad = math.radians(self._uniform(35.0, 75.0)) * side / larger
        return View(image, Camera.from_fov(torch.eye(4), fov_rad, size), depth_z)

    def _procedural_pair(self) -> Pair:
        chosen = torch.randint(len(self.pack.photo_image), (8,), generator=self.generator)
        textures = self.pack.photo_image[chosen].float() / 255
        scene = random_scene(self.generator, textures)
        fov_rad = math.radians(self._uniform(35.0, 75.0))
        size = (self.size_px, self.size_px)
        cameras = random_cameras(self.generator, 2, fov_rad, size)
        source, target = scene.render(cameras[0]), scene.render(cameras[1])
        assert source.depth_z is not None
        nearest = min(float(source.depth_z.min()), float(target.depth_z.min()))  # pyright: ignore
        if nearest < 0.15:  # a camera inside or against an object shows one blurred texture
            return self._procedural_pair()
        return Pair(source, target, torch.quantile(source.depth_z, 0.2))


def mirror(view: View) -> View:
    """Return the view of the mirrored scene (world x turned around), as a camera would see it."""
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    camera_to_world = flip @ view.camera.camera_to_world @ flip
    intrinsics_px = view.camera.intrinsics_px.clone()
    intrinsics_px[..., 0, 2] = view.camera.image_size_px[1] - intrinsics_px[..., 0, 2]
    camera = Camera(camera_to_world, intrinsics_px, view.camera.image_size_px)
    depth_z = None if view.depth_z is None else view.depth_z.flip(-1)
    return View(view.image.flip(-1), camera, depth_z)


def collate(pairs: list[Pair]) -> Pair:
    """Stack pairs into a batch, and warp the input views: loader processes do the geometry."""
    input_view = _stack([pair.input_view for pair in pairs])
    target_view = _stack([pair.target_view for pair in pairs])
    scale = torch.stack([pair.scene_scale for pair in pairs])
    return Pair(input_view, target_view, scale, forward_warp(input_view, target_view.camera))


def _stack(views: list[View]) -> View:
    camera = Camera(
        torch.stack([view.camera.camera_to_world for view in views]),
        torch.stack([view.camera.intrinsics_px for view in views]),
        views[0].camera.image_size_px,
    )
    depths = [view.depth_z for view in views if view.depth_z is not None]
    depth_z = torch.stack(depths) if len(depths) == len(views) else None
    return View(torch.stack([view.image for view in views]), camera, depth_z)
