"""Images as tensors and as PNG files, and many of them as one contact sheet."""

import math
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from zeronvs._core.files import write_aside
from zeronvs.formats.video import to_bytes


def from_bytes(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 h w"]:
    """Return the bytes of an image as a tensor in [0, 1]; the inverse of `to_bytes`."""
    return torch.tensor(pixels).permute(2, 0, 1).float() / 255


def write_image(path: Path, image: Float[Tensor, "3 h w"]) -> None:
    """Write one image, sRGB in [0, 1], whole or not at all; the suffix chooses the format."""
    with write_aside(path) as aside:
        Image.fromarray(to_bytes(image).permute(1, 2, 0).contiguous().numpy()).save(aside)


def write_depth(path: Path, depth_z: Float[Tensor, "h w"], *, unit: float) -> None:
    """Write depth as 16-bit grey PNG, whole or not at all; 0 where it is unknown or too large.

    Args:
        path: Where to.
        depth_z: Depth; what is not positive and finite is unknown.
        unit: Depth of one step of the file.
    """
    steps = (depth_z.detach().cpu().double() / unit).round().nan_to_num(0.0, 0.0, 0.0)
    steps = torch.where((steps >= 1) & (steps <= 65535), steps, 0.0)
    with write_aside(path) as aside:
        Image.fromarray(steps.numpy().astype(np.uint16)).save(aside)


def contact_sheet(
    images: Float[Tensor, "n 3 h w"], *, columns: int | None = None, gap_px: int = 4
) -> Float[Tensor, "3 sheet_h sheet_w"]:
    """Lay images out in rows on white.

    Args:
        columns: Images a row; about twice as many as there are rows if not given.
        gap_px: White between images.

    Raises:
        ValueError: There is no image, or no column.
    """
    count = len(images)
    columns = columns or max(1, min(count, round(math.sqrt(2 * count))))
    if count == 0 or columns < 1:
        raise ValueError(f"a contact sheet needs images and columns, got {count} and {columns}")
    rows = math.ceil(count / columns)
    blank = torch.ones(rows * columns - count, *images.shape[1:], dtype=images.dtype)
    padded = torch.nn.functional.pad(
        torch.cat([images.detach().cpu(), blank]), (0, gap_px, 0, gap_px), value=1.0
    )
    sheet = rearrange(padded, "(r c) d h w -> d (r h) (c w)", c=columns)
    return sheet[:, : sheet.shape[1] - gap_px, : sheet.shape[2] - gap_px]
