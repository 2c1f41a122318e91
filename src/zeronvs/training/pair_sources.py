"""Sources of training pairs from packed images, and streams of batches drawn from them.

- Posed frames: two frames of a scene.
- Photographs: the image is the target; the input is the image warped to a random camera along its
  disparity, so that the target is always real (as in AdaMPI, arXiv:2205.11733).
- Procedural scenes with exact geometry.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import forward_warp, warp_view
from zeronvs.datasets.procedural import random_cameras, random_scene
from zeronvs.training.objective import NumberedStream
from zeronvs.training.pack import TrainingPack
from zeronvs.training.view_pairs import ViewPairs

FOV_RANGE_RAD = (math.radians(35.0), math.radians(75.0))
"""Fields of view of photographs and procedural scenes."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One training pair."""

    input_view: View
    """Input views with dense depth."""
    target_view: View
    scene_scale: Tensor
    """20 % quantile of the input view's depth (the paper's q), scene units."""


@runtime_checkable
class PairSource(Protocol):
    """Distribution of training pairs."""

    def draw(self, generator: Generator) -> Pair:
        """Draw a pair; the same state of the generator gives the same pair."""
        ...


@dataclass(frozen=True)
class PosedFrames:
    """Pairs of frames of one scene; long scenes are drawn more often, by the root of their length.

    The root, because long recordings repeat themselves.
    """

    pack: TrainingPack
    near_share: float = 0.6
    """Share of pairs whose frames are close in the recording; the rest is uniform."""
    near_fraction: float = 0.25
    """Close means within this fraction of the recording."""

    def draw(self, generator: Generator) -> Pair:
        """Draw two frames of a scene."""
        weight = torch.tensor([len(frames) ** 0.5 for frames in self._scenes])
        frames = self._scenes[int(torch.multinomial(weight, 1, generator=generator))]
        count = len(frames)
        first = _index(generator, count)
        if _uniform(generator) < self.near_share:
            reach = max(1, int(count * self.near_fraction))
            sign = 1 if _uniform(generator) < 0.5 else -1
            second = min(max(first + sign * (1 + _index(generator, reach)), 0), count - 1)
        else:
            second = _index(generator, count)
        if second == first:
            second = first - 1 if first > 0 else first + 1
        source, target = int(frames[first]), int(frames[second])
        scale = self.pack.frame_quantile_depth[source]
        return Pair(self._frame(source), self._frame(target), scale)

    @cached_property
    def _scenes(self) -> list[Tensor]:
        return [frames for frames in self.pack.scenes() if len(frames) > 1]

    def _frame(self, index: int) -> View:
        pack, size_px = self.pack, self.pack.frame_image.shape[-1]
        camera = Camera(
            pack.frame_camera_to_world[index], pack.frame_intrinsics_px[index], (size_px, size_px)
        )
        depth_z = pack.frame_depth_z[index].float() * pack.frame_quantile_depth[index]
        return View(pack.frame_image[index].float() / 255, camera, depth_z)


@dataclass(frozen=True)
class Photographs:
    """Photographs as targets; the input is the photograph warped away along its disparity."""

    pack: TrainingPack
    min_known_share: float = 0.2
    """Inputs with a smaller share of known pixels are drawn again."""

    def draw(self, generator: Generator) -> Pair:
        """Draw a photograph, and a camera to warp it to."""
        while True:
            target = self._view(generator)
            camera = self._camera(generator, target)
            warped, _ = warp_view(target.batched(), camera.batched())
            source = warped[0]
            assert source.depth_z is not None
            known = source.depth_z[source.depth_z > 0]
            if len(known) >= self.min_known_share * source.depth_z.numel():
                return Pair(source, target, torch.quantile(known, 0.2))

    def _camera(self, generator: Generator, target: View) -> Camera:
        """Draw a camera: an orbit about the median depth, plus a random translation."""
        assert target.depth_z is not None
        middle = float(target.depth_z.median())
        yaw, pitch = _uniform(generator, -0.6, 0.6), _uniform(generator, -0.25, 0.25)
        pose = orbit_pose(torch.tensor(yaw), torch.tensor(pitch), torch.tensor(middle))
        home = orbit_pose(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(middle))
        away = torch.linalg.inv(home) @ pose
        step = torch.tensor([_uniform(generator, -x, x) for x in (1.0, 0.5, 1.0)])
        away[:3, 3] += 0.2 * _uniform(generator) * middle * step
        return target.camera.with_poses(target.camera.camera_to_world @ away)

    def _view(self, generator: Generator) -> View:
        pack, size_px = self.pack, self.pack.frame_image.shape[-1]
        index = _index(generator, len(pack.photo_image))
        larger = pack.photo_image.shape[-1]
        side = int(_uniform(generator, float(size_px), larger + 1.0))
        top, left = (_index(generator, larger - side + 1) for _ in range(2))
        window = (slice(top, top + side), slice(left, left + side))
        size = (size_px, size_px)
        image = pack.photo_image[index, :, *window].float()[None] / 255
        image = F.interpolate(image, size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        disparity = pack.photo_disparity[index, *window].float()[None, None] / 255
        disparity = F.interpolate(disparity, size, mode="bilinear")[0, 0]
        # Scale and shift of a relative disparity are unknown: draw how far the far end is.
        far_end = math.exp(_uniform(generator, math.log(0.1), math.log(0.6)))
        depth_z = 1.0 / (far_end + (1 - far_end) * disparity)
        fov_rad = _uniform(generator, *FOV_RANGE_RAD) * side / larger
        return View(image, Camera.from_fov(torch.eye(4), fov_rad, size), depth_z)


@dataclass(frozen=True)
class ProceduralScenes:
    """Random scenes textured with photographs."""

    pack: TrainingPack
    min_depth: float = 0.15
    """Scenes with anything nearer are drawn again: close objects show a blurred texture only."""

    def draw(self, generator: Generator) -> Pair:
        """Draw a scene and two cameras."""
        size_px = self.pack.frame_image.shape[-1]
        while True:
            chosen = torch.randint(len(self.pack.photo_image), (8,), generator=generator)
            scene = random_scene(generator, self.pack.photo_image[chosen].float() / 255)
            fov_rad = _uniform(generator, *FOV_RANGE_RAD)
            cameras = random_cameras(generator, 2, fov_rad, (size_px, size_px))
            source, target = scene.render(cameras[0]), scene.render(cameras[1])
            assert source.depth_z is not None
            assert target.depth_z is not None
            if min(float(source.depth_z.min()), float(target.depth_z.min())) >= self.min_depth:
                return Pair(source, target, torch.quantile(source.depth_z, 0.2))


@dataclass(frozen=True, kw_only=True)
class PairShares:
    """Shares of the sources; posed frames have the rest."""

    photographs: float = 0.4
    procedural: float = 0.05
    mirrored: float = 0.5
    """Share of all pairs that are mirrored."""

    def sources(self, pack: TrainingPack) -> list[tuple[PairSource, float]]:
        """Return the sources of a pack with their shares."""
        return [
            (Photographs(pack), self.photographs),
            (ProceduralScenes(pack), self.procedural),
            (PosedFrames(pack), 1 - self.photographs - self.procedural),
        ]


class PairStream(NumberedStream):
    """Batches of pairs; pair k is a function of the seed and of k alone."""

    def __init__(
        self,
        sources: Sequence[tuple[PairSource, float]],
        *,
        seed: int,
        batch: int,
        mirrored: float = 0.5,
        rank: int = 0,
        processes: int = 1,
        workers: int = 0,
    ) -> None:
        """Keep the sources; nothing is drawn yet.

        Args:
            processes: Processes that train together, which take the batches in turn.
            workers: Processes that draw pairs; 0 draws in this one.
        """
        self.sources, self.seed, self.mirrored = list(sources), seed, mirrored
        super().__init__(rank, processes)
        self.batch, self.workers = batch, workers

    def pair(self, number: int) -> Pair:
        """Draw the pair of this number."""
        generator = Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
        shares = torch.tensor([share for _, share in self.sources])
        index = int(torch.multinomial(shares, 1, generator=generator))
        pair = self.sources[index][0].draw(generator)
        if _uniform(generator) < self.mirrored:
            views = mirror(pair.input_view), mirror(pair.target_view)
            pair = Pair(*views, pair.scene_scale)
        return pair

    def __iter__(self) -> Iterator[ViewPairs]:
        """Yield batches, from the loaded state on."""
        for batch in DataLoader(_Batches(self), batch_size=None, num_workers=self.workers):
            self.taken += 1
            yield batch

    def read(self, index: int) -> ViewPairs:
        """Return batch `index` of this process."""
        first = (index * self.processes + self.rank) * self.batch
        return collate([self.pair(first + offset) for offset in range(self.batch)])


class _Batches(IterableDataset):
    """The batches of a stream from its state on; loader workers take them in turn."""

    def __init__(self, stream: PairStream) -> None:
        super().__init__()
        self.stream, self.first = stream, stream.taken

    def __iter__(self) -> Iterator[ViewPairs]:
        worker = torch.utils.data.get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in itertools.count(self.first + start, step):
            yield self.stream.read(index)


def mirror(view: View) -> View:
    """Return the view of the mirrored scene (world x negated)."""
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    camera_to_world = flip @ view.camera.camera_to_world @ flip
    intrinsics_px = view.camera.intrinsics_px.clone()
    intrinsics_px[..., 0, 2] = view.camera.image_size_px[1] - intrinsics_px[..., 0, 2]
    camera = Camera(camera_to_world, intrinsics_px, view.camera.image_size_px)
    depth_z = None if view.depth_z is None else view.depth_z.flip(-1)
    return View(view.image.flip(-1), camera, depth_z)


def collate(pairs: Sequence[Pair]) -> ViewPairs:
    """Stack pairs into a batch, and warp the input views (geometry is a loader process's work)."""
    input_view = View.stack([pair.input_view for pair in pairs])
    target_view = View.stack([pair.target_view for pair in pairs])
    warped = forward_warp(input_view, target_view.camera)
    scale = torch.stack([pair.scene_scale for pair in pairs])
    return ViewPairs(input_view, target_view.with_depth(None), scale, warped)


def _uniform(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _index(generator: Generator, count: int) -> int:
    return int(torch.randint(count, (), generator=generator))
