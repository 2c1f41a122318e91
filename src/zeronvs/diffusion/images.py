"""What a caller of the pipeline brings (pictures, cameras, seeds), made regular; and back."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View

Picture = Image.Image | str | Path | np.ndarray | Tensor
Seeds = int | list[int] | torch.Generator | None


def picture_to_tensor(picture: Picture) -> Float[Tensor, "3 h w"]:
    """Return RGB in [0, 1] of a PIL image, its file, an "h w 3" array or a "3 h w" tensor.

    Arrays and tensors are taken as [0, 255] where they hold integers, as [0, 1] where floats.

    Raises:
        InputError: It is none of these, or its values lie outside their range.
    """
    if isinstance(picture, str | Path):
        try:
            picture = Image.open(picture)
        except (OSError, ValueError) as error:
            raise InputError(f"{picture} cannot be read as an image ({error}).") from error
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if isinstance(picture, np.ndarray):
        picture = torch.from_numpy(picture.copy())
        picture = picture.movedim(-1, 0) if picture.ndim == 3 else picture
    if not isinstance(picture, Tensor) or picture.ndim != 3 or picture.shape[0] != 3:
        seen = tuple(getattr(picture, "shape", ())) or type(picture).__name__
        raise InputError(
            f"the image is {seen}; give a PIL image, an (h, w, 3) array or a (3, h, w) tensor."
        )
    pixels = picture.float() if picture.is_floating_point() else picture.float() / 255.0
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1e-3 and high <= 1.0 + 1e-3):
        raise InputError(
            f"the image's values run from {low:g} to {high:g}; floats must lie in [0, 1], "
            "integers in [0, 255]."
        )
    return pixels.clamp(0.0, 1.0)


def tensor_to_pictures(images: Float[Tensor, "n 3 h w"], output_type: str) -> Any:
    """Return images in [0, 1] as "pil" (a list), "np" ("n h w 3" array) or "pt" (the tensor).

    Raises:
        InputError: The output type is none of these.
    """
    if output_type == "pt":
        return images
    array = images.detach().float().cpu().movedim(1, -1).numpy()
    if output_type == "np":
        return array
    if output_type == "pil":
        return [Image.fromarray(image) for image in (array * 255.0).round().astype(np.uint8)]
    raise InputError(f'output_type is "{output_type}"; choose "pil", "np" or "pt".')


def input_view(image: Picture | View, input_camera: Camera | None, targets: Camera) -> View:
    """Return the input view as a batch of one.

    Args:
        image: A picture, or a view that brings its camera.
        input_camera: Camera of the picture; by default at distance 1 from the world's origin,
            looking at it horizontally, with the field of view of the first target camera.
        targets: The cameras that are asked for.

    Raises:
        InputError: The picture cannot be used, a view comes with another camera, or several views.
    """
    if not isinstance(image, View):
        pixels = picture_to_tensor(image)
        if input_camera is None:
            pose = orbit_pose(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0))
            fov_y_rad = targets.fov_y_rad[0].float().cpu()
            height_px, width_px = pixels.shape[-2:]
            input_camera = Camera.from_fov(pose, fov_y_rad, (height_px, width_px))
        input_camera = input_camera.resized(*pixels.shape[-2:])
        image = View(pixels.expand(*input_camera.batch_shape, *pixels.shape), input_camera)
    elif input_camera is not None:
        raise InputError("input_camera was given beside a View, which has its own; give one.")
    view = image.batched()
    if len(view) != 1:
        raise InputError(f"{len(view)} input views were given; the pipeline takes one at a time.")
    return view


def draw_seeds(generator: Seeds, count: int) -> list[int]:
    """Return one seed per sample.

    Args:
        generator: A seed (sample k gets seed + k), one seed per sample, or a generator to draw
            them from; None draws fresh ones.
        count: Samples.

    Raises:
        InputError: The number of seeds is not the number of samples.
    """
    if isinstance(generator, int):
        return [generator + index for index in range(count)]
    if isinstance(generator, list):
        if len(generator) != count:
            raise InputError(f"{len(generator)} seeds were given for {count} samples.")
        return generator
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    device = generator.device
    return torch.randint(2**62, (count,), generator=generator, device=device).tolist()
