"""Conversion and validation of the pipeline's arguments (images, cameras, seeds) and outputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View

ImageInput = Image.Image | str | Path | np.ndarray | Tensor
Seeds = int | list[int] | torch.Generator | list[torch.Generator] | None
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def image_to_tensor(image: ImageInput) -> Float[Tensor, "3 h w"]:
    """Return RGB in [0, 1] of a PIL image, its file, an "h w 3" array or a "3 h w" tensor.

    Arrays and tensors are taken as [0, 255] where they hold integers, as [0, 1] where floats.

    Raises:
        InputError: It is none of these, or its values lie outside their range.
    """
    if isinstance(image, str | Path):
        path = Path(image)
        if path.exists() and not path.is_file():  # a pipe would never end
            raise InputError(f"{path} is not a file; give an image.")
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{path} cannot be read as an image ({error}).") from error
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":
            raise InputError(
                f"the image has pixels of mode {image.mode}, of no fixed range; "
                "zeronvs.prepare_photo reads such images."
            )
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image.copy())
        image = image.movedim(-1, 0) if image.ndim == 3 else image
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3:
        observed = tuple(getattr(image, "shape", ())) or type(image).__name__
        raise InputError(
            f"the image is {observed}; give a PIL image, an (h, w, 3) array or a (3, h, w) tensor."
        )
    pixels = image.float() if image.is_floating_point() else image.float() / 255.0
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1e-3 and high <= 1.0 + 1e-3):
        raise InputError(
            f"the image's values run from {low:g} to {high:g}; floats must lie in [0, 1], "
            "integers in [0, 255]."
        )
    return pixels.clamp(0.0, 1.0)


def to_output_type(images: Float[Tensor, "n 3 h w"], output_type: str) -> Any:
    """Return images in [0, 1] as "pil" (a list), "np" ("n h w 3" array) or "pt" (the tensor)."""
    if output_type == "pt":
        return images
    array = images.detach().float().cpu().movedim(1, -1).numpy()
    if output_type == "np":
        return array
    return [Image.fromarray(image) for image in (array * 255.0).round().astype(np.uint8)]


def input_views(
    image: ImageInput | View | Sequence[ImageInput] | Sequence[View],
    input_camera: Camera | None,
    targets: Camera,
) -> list[View]:
    """Return the input views, each as a batch of one.

    Args:
        image: An image, several (a list, or an array or tensor with a leading axis), or views,
            which have cameras.
        input_camera: Camera of the images, one for all or one each; by default at distance 1 from
            the world's origin, looking at it horizontally, with the field of view of the first
            target camera.
        targets: The target cameras.

    Raises:
        InputError: An image cannot be used, views come with an `input_camera`, or there is none.
    """
    given: Any = [image] if isinstance(image, View) else image
    if isinstance(given, list | tuple) and given and isinstance(given[0], View):
        if input_camera is not None:
            raise InputError(
                "input_camera was given together with a View, which has its own; give only one."
            )
        if not all(isinstance(item, View) for item in given):
            raise InputError("the list has views and images; give only one kind.")
        batches = [view.batched() for view in given]
        return [view[[index]] for view in batches for index in range(len(view))]
    is_batch = isinstance(image, np.ndarray | Tensor) and image.ndim == 4
    listed: Any = image if is_batch or isinstance(image, list | tuple) else [image]
    images = [image_to_tensor(item) for item in listed]
    if not images:
        raise InputError("the list of images is empty; give at least one.")
    if input_camera is not None:
        input_camera = input_camera.batched()
        if len(input_camera) not in (1, len(images)):
            raise InputError(
                f"{len(input_camera)} input cameras were given for {len(images)} images; give "
                "one for all, or one each."
            )
    pose = orbit_pose(torch.zeros(1), torch.zeros(1), torch.ones(1))
    fov_y_rad = targets.fov_y_rad[:1].float().cpu()
    views = []
    for index, pixels in enumerate(images):
        height_px, width_px = pixels.shape[-2:]
        if input_camera is None:
            camera = Camera.from_fov(pose, fov_y_rad, (height_px, width_px))
        else:
            camera = input_camera[[index % len(input_camera)]].resized(height_px, width_px)
        views.append(View(pixels[None], camera))
    return views


def check_latents(
    latents: Float[Tensor, "n c h w"] | None, shape: tuple[int, ...]
) -> Float[Tensor, "n c h w"] | None:
    """Validate the initial noise that the caller passes, and convert it to float32.

    Raises:
        InputError: It is not of this shape, or not finite.
    """
    if latents is None:
        return None
    if tuple(latents.shape) != shape or not bool(latents.isfinite().all()):
        raise InputError(
            f"latents has shape {tuple(latents.shape)}; this call needs finite noise of shape "
            f"{shape}."
        )
    return latents.float()


def draw_seeds(generator: Seeds, count: int) -> list[int]:
    """Return one seed per sample.

    Args:
        generator: A seed (sample k gets seed + k), one seed or generator per sample, or a
            generator to draw all seeds from; None draws fresh ones.
        count: Samples.

    Raises:
        InputError: The number of seeds is not the number of samples.
    """
    if isinstance(generator, int):
        return [generator + index for index in range(count)]
    if isinstance(generator, list):
        if len(generator) != count:
            raise InputError(f"{len(generator)} seeds were given for {count} samples.")
        return [_drawn(g, 1)[0] if isinstance(g, torch.Generator) else g for g in generator]
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return _drawn(generator, count)


def _drawn(generator: torch.Generator, count: int) -> list[int]:
    device = generator.device
    return torch.randint(2**62, (count,), generator=generator, device=device).tolist()
