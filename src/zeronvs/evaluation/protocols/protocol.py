"""A benchmark protocol as data, and one scene of it as values in the frame of the method.

The published code brings the cameras of a data set to the method's frame by one similarity: the
input camera becomes the canonical one (azimuth 0, distance 1, looking at the origin), and the poses
relative to it are kept, their translations divided by the scale g ("gt_to_pred_scale").
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose, relative_pose
from zeronvs.cameras.view import View

T = TypeVar("T")
ProtocolName = Literal["dtu", "mipnerf360"]
METRICS = ("LPIPS", "PSNR", "SSIM")
"""Metrics of the paper's tables, in its order."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a benchmark measures."""

    name: str
    image_size_px: tuple[int, int]
    """(height, width) at which views are rendered and measured."""
    background: float
    """Grey level in [0, 1] behind what is rendered."""
    scale_grid: tuple[float, ...]
    """Scales that the published search tried for every scene and method."""
    scenes: Mapping[str, Mapping[str, float | int]]
    """Scene -> its settings and its published metrics; `scale` is the one that was chosen."""
    tables: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Table -> method -> metric -> published value."""
    settings: Mapping[str, Any]
    """Everything else in the file, for the reader."""

    def published(self, scenes: list[str], metric: str) -> float:
        """Return the published mean over some scenes."""
        return sum(self.scenes[scene][metric] for scene in scenes) / len(scenes)


def load_protocol(name: ProtocolName) -> Protocol:
    """Read the protocol's file in the package."""
    text = (
        files("zeronvs.evaluation.protocols").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    )
    content = tomllib.loads(text)
    height_px, width_px = content.pop("image_size_px")
    return Protocol(
        name=content.pop("name"),
        image_size_px=(height_px, width_px),
        background=content.pop("background"),
        scale_grid=tuple(content.pop("scale_grid")),
        scenes=content.pop("scenes"),
        tables=content.pop("tables"),
        settings=content,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class BenchmarkScene:
    """One scene as a protocol measures it, in the data set's normalised unit."""

    name: str
    input_view: View
    """The single input, without depth."""
    targets: View
    """The views that are measured, one leading axis."""
    target_names: tuple[str, ...]
    elevation_rad: float
    """Of the input camera, as the protocol gives it."""
    content_scale: float
    """The paper's q: scene units per model unit, as the protocol gives it."""
    published_scale: float
    """The paper's g for this scene."""
    focus_distance: float
    """From the input camera to the point that all cameras look at."""
    known_depth_z: Float[Tensor, "h w"]
    """Sparse depth of the input that the data set's own views determine; 0 = unknown."""
    notes: tuple[str, ...] = ()

    @property
    def canonical_camera(self) -> Camera:
        """The input camera in the method's frame."""
        angle = torch.tensor(self.elevation_rad)
        pose = orbit_pose(torch.tensor(0.0), angle, torch.tensor(1.0))
        camera = self.input_view.camera
        return Camera(pose, camera.intrinsics_px, camera.image_size_px)

    def target_cameras(self, scale: float) -> Camera:
        """Return the target cameras in the method's frame.

        Args:
            scale: Units of the data set per unit of the method's scene (g), > 0.
        """
        poses = placed_beside(
            self.targets.camera.camera_to_world.double(),
            self.input_view.camera.camera_to_world.double(),
            self.canonical_camera.camera_to_world.double(),
            scale,
        )
        return self.targets.camera.with_poses(poses.float())


def spread_evenly(items: list[T], limit: int | None) -> list[T]:
    """Return at most so many of them, spread evenly."""
    if limit is None or limit >= len(items):
        return items
    return [items[k * len(items) // limit] for k in range(limit)]


def placed_beside(
    target_to_world: Float[Tensor, "n 4 4"],
    input_to_world: Float[Tensor, "4 4"],
    canonical_to_world: Float[Tensor, "4 4"],
    scale: float,
) -> Float[Tensor, "n 4 4"]:
    """Return cameras that stand beside the canonical one as the targets beside the input.

    Args:
        scale: Translations relative to the input are divided by it, > 0.
    """
    beside = relative_pose(target_to_world, input_to_world)
    beside[..., :3, 3] /= scale
    return canonical_to_world @ beside


def focus_point(camera_to_world: Float[Tensor, "n 4 4"]) -> Float[Tensor, "3"]:
    """Return the point nearest to all optical axes (least squares)."""
    axis, origin = camera_to_world[:, :3, 2], camera_to_world[:, :3, 3]
    # Projection away from each axis: its squared length is the squared distance to the axis.
    away = torch.eye(3, dtype=axis.dtype) - axis[:, :, None] * axis[:, None, :]
    return torch.linalg.solve(away.mean(0), (away @ origin[..., None]).mean(0)[:, 0])


def pca_normalized(
    camera_to_world: Float[Tensor, "n 4 4"],
) -> tuple[
    Float[Tensor, "n 4 4"],  # poses, normalised
    float,  # old units per new unit: the mean distance of the cameras to the focus point
]:
    """Return the poses of a capture around something, as Mip-NeRF 360's are normalised.

    The principal axes of the camera positions become the world's, with z (the least of them)
    upwards; then the focus point becomes the origin and the mean distance to it 1. The signs of x
    and y are arbitrary.
    """
    position = camera_to_world[:, :3, 3]
    mean = position.mean(0)
    _, vectors = torch.linalg.eigh((position - mean).mT @ (position - mean))
    rotation = vectors.flip(1).mT  # eigenvalues come in ascending order
    if float(torch.linalg.det(rotation)) < 0:
        rotation = rotation * torch.tensor([1.0, 1.0, -1.0], dtype=rotation.dtype)[:, None]
    poses = camera_to_world.clone()
    poses[:, :3, 3] -= mean
    poses[:, :3] = rotation @ poses[:, :3]
    if float(poses[:, 2, 1].mean()) < 0:  # the cameras' own up direction points down
        flip = torch.tensor([1.0, -1.0, -1.0], dtype=poses.dtype)
        poses[:, :3] = flip[:, None] * poses[:, :3]
    poses[:, :3, 3] -= focus_point(poses)
    unit = poses[:, :3, 3].norm(dim=-1).mean()
    poses[:, :3, 3] /= unit
    return poses, float(unit)
