"""A view: an image with the camera that took it, and its depth where that is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera, center_window

Kernel = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, eq=False)
class View:
    """One view, or a batch of them with any leading axes."""

    image: Float[Tensor, "*batch 3 h w"]
    """RGB in [0, 1]."""
    camera: Camera
    depth_z: Float[Tensor, "*batch h w"] | None = None
    """Depth along the optical axis in scene units; 0 = unknown."""

    def __post_init__(self) -> None:
        """Refuse an image, a camera and a depth map that do not belong together.

        Raises:
            ValueError: Sizes, leading axes or devices differ.
        """
        shape, batch = tuple(self.image.shape), tuple(self.camera.batch_shape)
        if shape != (*batch, 3, *self.camera.image_size_px):
            raise ValueError(
                f"the image is {shape}; cameras {batch} of image size {self.camera.image_size_px} "
                f"need {(*batch, 3, *self.camera.image_size_px)}"
            )
        if self.image.device != self.camera.device:
            raise ValueError(
                f"the image is on {self.image.device} and its camera on {self.camera.device}; "
                "use View.to"
            )
        if self.depth_z is None:
            return
        if tuple(self.depth_z.shape) != (*batch, *self.camera.image_size_px):
            raise ValueError(
                f"depth_z is {tuple(self.depth_z.shape)}, the image {shape}: one depth per pixel "
                "is needed"
            )
        if self.depth_z.device != self.image.device:
            raise ValueError(
                f"depth_z is on {self.depth_z.device} and the image on {self.image.device}; "
                "use View.to"
            )

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.image.device

    def to(self, device: torch.device | str) -> "View":
        """Return the same view with its tensors on `device`."""
        depth_z = None if self.depth_z is None else self.depth_z.to(device)
        return View(self.image.to(device), self.camera.to(device), depth_z)

    def with_depth(self, depth_z: Float[Tensor, "*batch h w"] | None) -> "View":
        """Return the same image and camera with another depth map."""
        return View(self.image, self.camera, depth_z)

    def batched(self) -> "View":
        """Return the views along one leading axis; a single view becomes a batch of one."""
        size_px = self.camera.image_size_px
        depth_z = None if self.depth_z is None else self.depth_z.reshape(-1, *size_px)
        return View(self.image.reshape(-1, 3, *size_px), self.camera.batched(), depth_z)

    def center_square(self) -> "View":
        """Return the central square of the image, with its camera and depth."""
        window = (..., *center_window(*self.camera.image_size_px))
        depth_z = None if self.depth_z is None else self.depth_z[window]
        return View(self.image[window], self.camera.center_square(), depth_z)

    def resized(self, height_px: int, width_px: int, kernel: Kernel = "bilinear") -> "View":
        """Return the view at another size, its camera and depth with it.

        The image is resized with antialiasing and differentiably; depth by the nearest pixel, since
        a mean of two depths lies on neither surface, and 0 means unknown.
        """
        if (height_px, width_px) == self.camera.image_size_px:
            return self
        image = resize_image(self.image, (height_px, width_px), kernel)
        depth_z = None
        if self.depth_z is not None:
            flat = self.depth_z.reshape(-1, 1, *self.camera.image_size_px)
            depth_z = F.interpolate(flat, (height_px, width_px), mode="nearest-exact")
            depth_z = depth_z.reshape(*self.camera.batch_shape, height_px, width_px)
        return View(image, self.camera.resized(height_px, width_px), depth_z)

    def __getitem__(self, index: "int | slice | Tensor | list[int]") -> "View":
        """Index the first leading axis."""
        depth_z = None if self.depth_z is None else self.depth_z[index]
        return View(self.image[index], self.camera[index], depth_z)

    def __len__(self) -> int:
        """Size of the first leading axis."""
        return len(self.camera)

    @staticmethod
    def cat(views: "Sequence[View]") -> "View":
        """Concatenate batches of views of one size; depth is kept where all have it."""
        camera = Camera.cat([view.camera for view in views])
        image = torch.cat([view.image for view in views])
        return View(image, camera, _joined_depth(torch.cat, views))

    @staticmethod
    def stack(views: "Sequence[View]") -> "View":
        """Stack views of one size along a new first axis; depth is kept where all have it."""
        camera = Camera.stack([view.camera for view in views])
        return View(
            torch.stack([v.image for v in views]), camera, _joined_depth(torch.stack, views)
        )


def _joined_depth(join: Callable[..., Tensor], views: Sequence[View]) -> Tensor | None:
    depths = [view.depth_z for view in views if view.depth_z is not None]
    return join(depths) if len(depths) == len(views) else None


def resize_image(
    image: Float[Tensor, "*batch c h w"], size_px: tuple[int, int], kernel: Kernel = "bilinear"
) -> Float[Tensor, "*batch c height width"]:
    """Resize images in [0, 1] to (height, width), with antialiasing when shrinking."""
    if tuple(image.shape[-2:]) == size_px:
        return image
    flat = image.reshape(-1, *image.shape[-3:])
    # Enlarging linearly is the same without antialiasing, whose gradient Apple GPUs lack.
    enlarged = size_px[0] >= image.shape[-2] and size_px[1] >= image.shape[-1]
    antialias = kernel != "bilinear" or not enlarged
    resized = F.interpolate(flat, size_px, mode=kernel, align_corners=False, antialias=antialias)
    if kernel == "bicubic":  # the kernel has negative lobes: it overshoots at edges
        resized = resized.clamp(0.0, 1.0)
    return resized.reshape(*image.shape[:-2], *size_px)


def box_mean(image: Float[Tensor, "c h w"], radius_px: int) -> Float[Tensor, "c h w"]:
    """Return the mean over a square window, borders repeated."""
    side = 2 * radius_px + 1
    padded = F.pad(image[None], (radius_px,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (1, side), 1), (side, 1), 1)[0]
