"""Views kept in a run folder, so that a resumed run reads what it sampled instead of resampling.

A folder of views holds `000.png`, `001.png`, ... and `transforms.json` (nerfstudio layout, OpenGL
camera-to-world), `depth.safetensors` where the views have depth, and `trust.safetensors` where the
scene is fitted to them. Images on the 8-bit grid
(`anchors.quantized`) come back exactly; so do cameras, since JSON keeps every digit of a float.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.formats.images import from_bytes
from zeronvs.formats.transforms_json import frame_camera, read_frames, write_transforms

MAX_IMAGE_PX = 2**26
"""A view that a run keeps has at most a few hundred thousand."""


def save_views(folder: Path, views: View) -> None:
    """Write a batch of views; `transforms.json` comes last and marks the folder as whole.

    Args:
        folder: Made if missing.
        views: Batch with one leading axis; images in [0, 1], rounded to 8 bits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transforms.json").unlink(missing_ok=True)
    for index, image in enumerate(views.image):
        save_image(folder / f"{index:03d}.png", image)
    if views.depth_z is not None:
        with write_aside(folder / "depth.safetensors") as aside:
            safetensors.torch.save_file({"depth_z": views.depth_z.cpu().contiguous()}, aside)
    paths = [folder / f"{index:03d}.png" for index in range(len(views.image))]
    extra = [{"has_depth": views.depth_z is not None}] * len(paths)
    write_transforms(folder / "transforms.json", views.camera, paths, extra=extra)


def load_views(folder: Path) -> View | None:
    """Read what `save_views` wrote; None where the folder is missing or was not finished.

    Raises:
        InputError: The folder is marked complete, but an image is missing or damaged.
    """
    listing = folder / "transforms.json"
    if not listing.is_file():
        return None
    try:
        frames = read_frames(listing)
        names = [str(frame.get("file_path")) for frame in frames]
        if not names or any(Path(name).name != name for name in names):
            raise InputError("its transforms.json should name images of the same folder")
        cameras = [frame_camera(frame, str(listing)) for frame in frames]
        sizes = [camera.image_size_px for camera in cameras]
        images = [read_image(folder / n, size) for n, size in zip(names, sizes, strict=True)]
        has_depth = any(frame.get("has_depth") for frame in frames)
        depths = folder / "depth.safetensors"
        depth_z = safetensors.torch.load_file(depths)["depth_z"] if has_depth else None
        if depth_z is not None and (
            tuple(depth_z.shape) != (len(names), *sizes[0]) or not bool(depth_z.isfinite().all())
        ):
            raise InputError("depth.safetensors does not fit the images, or is not finite")
        return View(torch.stack(images), Camera.stack(cameras), depth_z)
    except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise _damaged(folder, error) from error


def sample_kept(
    sample: Callable[[list[int], Progress], Float[Tensor, "b 3 h w"]],
    paths: Sequence[Path],
    *,
    batch_size: int,
    resume: bool,
    progress: Progress = silent,
) -> Float[Tensor, "n 3 h w"]:
    """Sample images in batches and keep each as soon as it is there, on the 8-bit grid.

    Args:
        sample: Draws the images of these numbers; an image must not depend on its batch.
        paths: Where image k is kept, as PNG.
        batch_size: Images at a time.
        resume: Whether files that are there are read instead of drawn.
        progress: Called at each step, counted over all batches.

    Raises:
        InputError: An image that a stopped run kept is damaged.
    """
    images: list[Tensor] = []
    batches = -(-len(paths) // batch_size)
    for start in range(0, len(paths), batch_size):
        rows = range(start, min(start + batch_size, len(paths)))
        missing = [k for k in rows if not (resume and paths[k].is_file())]
        if missing:
            drawn = sample(missing, _counted(progress, start // batch_size, batches))
            for k, image in zip(missing, drawn, strict=True):
                save_image(paths[k], image)
        images += [load_image(paths[k]) for k in rows]
    return torch.stack(images)


def _counted(progress: Progress, before: int, batches: int) -> Progress:
    """Return a listener that counts the steps of one batch among those of all."""

    def tell(event: ProgressEvent) -> None:
        steps = event.total or 1
        progress(replace(event, step=before * steps + event.step, total=batches * steps))

    return tell


def save_image(path: Path, image: Float[Tensor, "3 h w"]) -> None:
    """Write an image in [0, 1] as an 8-bit PNG."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with write_aside(path) as aside:
        Image.fromarray(pixels).save(aside)


def load_image(path: Path) -> Float[Tensor, "3 h w"]:
    """Read an image that a run has kept.

    Raises:
        InputError: It is damaged.
    """
    try:
        return read_image(path)
    except ValueError as error:
        raise _damaged(path.parent, error) from error


def save_supervised(folder: Path, supervised: SupervisedViews) -> None:
    """Write views together with how far they are trusted."""
    trust = {"weight": supervised.weight, "confidence": supervised.confidence}
    given = {name: value.cpu().contiguous() for name, value in trust.items() if value is not None}
    with write_aside(folder / "trust.safetensors") as aside:
        safetensors.torch.save_file(given, aside)
    save_views(folder, supervised.views)


def load_supervised(folder: Path) -> SupervisedViews | None:
    """Read what `save_supervised` wrote; None where the folder is missing or was not finished.

    Raises:
        InputError: The folder is marked complete, but a file is missing or damaged.
    """
    views = load_views(folder)
    if views is None:
        return None
    try:
        trust = safetensors.torch.load_file(folder / "trust.safetensors")
        shapes = {"weight": (len(views),), "confidence": (len(views), *views.image.shape[-2:])}
        for name, values in trust.items():
            if tuple(values.shape) != shapes.get(name) or not bool(values.isfinite().all()):
                raise InputError(f"trust.safetensors has no usable {name}")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _damaged(folder, error) from error
    return SupervisedViews(views, trust.get("weight"), trust.get("confidence"))


def _damaged(folder: Path, error: Exception) -> InputError:
    """Return the error of a folder that was written but cannot be read."""
    return InputError(f"{folder} is damaged ({error}). Delete it and start the run anew.")


def read_image(path: Path, size_px: tuple[int, int] | None = None) -> torch.Tensor:
    """Return an 8-bit image file as `3 h w` in [0, 1].

    Raises:
        InputError: It is damaged, no file, or not of this size, (height, width).
    """
    if path.exists() and not path.is_file():  # a pipe would never end
        raise InputError(f"{path.name} is not a file")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_IMAGE_PX:
                raise InputError(f"{path.name} has {image.width}x{image.height} pixels")
            if size_px is not None and size_px != (image.height, image.width):
                raise InputError(f"{path.name} is {image.size}, its camera's image {size_px[::-1]}")
            pixels = np.array(image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise InputError(f"{path.name}: {error}") from error
    return from_bytes(pixels)
