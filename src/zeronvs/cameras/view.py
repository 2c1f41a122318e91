"""A view: pixels together with the camera that took them, and their depth where it is known."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.camera import Camera


@dataclass(frozen=True, eq=False)
class View:
    """One view, or a batch of them with any leading axes."""

    image: Float[Tensor, "*batch 3 h w"]
    """RGB in [0, 1]."""
    camera: Camera
    depth_z: Float[Tensor, "*batch h w"] | None = None
    """Depth along the optical axis in scene units; 0 = unknown."""

    def to(self, device: torch.device | str) -> "View":
        """Return the same view with its tensors on `device`."""
        depth_z = None if self.depth_z is None else self.depth_z.to(device)
        return View(self.image.to(device), self.camera.to(device), depth_z)

    def __getitem__(self, index: "int | slice | Tensor | list[int]") -> "View":
        """Index the first leading axis."""
        depth_z = None if self.depth_z is None else self.depth_z[index]
        return View(self.image[index], self.camera[index], depth_z)

    def __len__(self) -> int:
        """Size of the first leading axis."""
        return len(self.camera)
