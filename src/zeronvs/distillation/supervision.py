"""Views with a per-pixel reconstruction loss: the photo, and sampled views around it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zeronvs._core.random import seeded_generator, sent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.rays import pixel_rays
from zeronvs.cameras.view import View


@dataclass(frozen=True, eq=False)
class SupervisedViews:
    """Views that the scene is fitted to in addition to the photo, with confidence weights."""

    views: View
    """m views; depth where known, in scene units."""
    weight: Float[Tensor, " m"] | None = None
    """Weight of each view; 1 where None."""
    confidence: Float[Tensor, "m h w"] | None = None
    """Weight of each pixel; 1 where None."""
    replaced_since: Bool[Tensor, " m"] | None = None
    """Which views are no longer those that were sampled first; none where None."""

    def to(self, device: torch.device | str) -> "SupervisedViews":
        """Return the same views with their tensors on `device`."""
        weight = None if self.weight is None else self.weight.to(device)
        confidence = None if self.confidence is None else self.confidence.to(device)
        since = None if self.replaced_since is None else self.replaced_since.to(device)
        return SupervisedViews(self.views.to(device), weight, confidence, since)

    def replaced(self, row: int, view: View) -> "SupervisedViews":
        """Return the views with that of a row (a batch of one) put in its place."""
        order = [*range(row), len(self.views), *range(row + 1, len(self.views))]
        since = self._since().clone()
        since[row] = True
        return replace(self, views=View.cat([self.views, view])[order], replaced_since=since)

    def with_first_weight(self, factor: float) -> "SupervisedViews":
        """Return the views with the weight of those not replaced yet multiplied by a factor."""
        weight = torch.where(self._since(), 1.0, factor)
        return replace(self, weight=weight if self.weight is None else weight * self.weight)

    def state(self) -> dict[str, Tensor]:
        """Return what `replaced` changes, for a checkpoint."""
        state = {"image": self.views.image, "replaced": self._since()}
        return state if self.views.depth_z is None else state | {"depth_z": self.views.depth_z}

    def with_state(self, state: Mapping[str, Tensor]) -> "SupervisedViews":
        """Return the views as they were when `state` was taken."""
        state = {name: value.to(self.views.device) for name, value in state.items()}
        views = View(state["image"], self.views.camera, state.get("depth_z"))
        return replace(self, views=views, replaced_since=state["replaced"])

    def _since(self) -> Bool[Tensor, " m"]:
        if self.replaced_since is not None:
            return self.replaced_since
        return torch.zeros(len(self.views), dtype=torch.bool, device=self.views.device)


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """Some pixels of some views, with the rays through them."""

    origins: Float[Tensor, "r 3"]
    directions: Float[Tensor, "r 3"]
    z_per_unit_distance: Float[Tensor, " r"]
    """depth_z = distance along the ray * this."""
    rgb: Float[Tensor, "r 3"]
    depth_z: Float[Tensor, " r"]
    """0 = unknown."""
    trust: Float[Tensor, " r"]


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """Return the generator of one purpose in one step; a resumed run draws the same numbers."""
    name = f"{seed}/{step}/{purpose}".encode()
    return seeded_generator(int.from_bytes(hashlib.blake2b(name, digest_size=7).digest()))


def random_pixels(
    supervised: SupervisedViews, count: int, generator: torch.Generator
) -> PixelBatch:
    """Draw pixels uniformly over all views."""
    views = supervised.views
    device = views.image.device
    height_px, width_px = views.camera.image_size_px
    pixel = torch.randint(len(views) * height_px * width_px, (count,), generator=generator)
    pixel = sent(pixel, device)
    view, row, column = torch.unravel_index(pixel, (len(views), height_px, width_px))
    uv_px = torch.stack([column, row], dim=-1).float() + 0.5
    rays = pixel_rays(views.camera[view], uv_px[:, None])
    trust = torch.ones(count, device=device)
    if supervised.weight is not None:
        trust = trust * supervised.weight[view]
    if supervised.confidence is not None:
        trust = trust * supervised.confidence[view, row, column]
    unknown = torch.zeros(count, device=device)
    return PixelBatch(
        rays.origins[:, 0],
        rays.directions[:, 0],
        rays.z_per_unit_distance[:, 0],
        views.image[view, :, row, column],
        unknown if views.depth_z is None else views.depth_z[view, row, column],
        trust,
    )


def jittered(camera: Camera, noise: float, generator: torch.Generator) -> Camera:
    """Return the camera after a small random rigid motion.

    Equivalent of the published noise on ray origins and directions (threestudio, utils/ops.py,
    `get_rays`: one draw for all rays of an image).

    Args:
        camera: One camera, or a batch that is moved as one.
        noise: Standard deviation of the shift, scene units, and of the turn, radians.
    """
    shift, turn = noise * torch.randn((2, 3), generator=generator)
    x, y, z = turn.unbind()
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    pose = camera.camera_to_world.clone()
    # The exponential is taken on the CPU: Apple GPUs have none.
    pose[..., :3, :3] = torch.linalg.matrix_exp(skew).to(pose) @ pose[..., :3, :3]
    pose[..., :3, 3] += shift.to(pose)
    return camera.with_poses(pose)


def resized_view(view: View, height_px: int) -> View:
    """Return one view at another height, its width in proportion and its camera to match."""
    old_height_px, old_width_px = view.camera.image_size_px
    return view.resized(height_px, max(1, round(old_width_px * height_px / old_height_px)))


def digest(*tensors: Tensor | None) -> str:
    """Return a short fingerprint of the exact values of some tensors."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            hashed.update(str(tuple(tensor.shape)).encode())
            hashed.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def digest_view(view: View) -> str:
    """Return a fingerprint of a view: pixels, camera and depth."""
    return digest(view.image, view.camera.camera_to_world, view.camera.intrinsics_px, view.depth_z)
