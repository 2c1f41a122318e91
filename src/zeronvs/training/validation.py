"""Contact sheets of the validation examples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from zeronvs._core.files import write_aside
from zeronvs.cameras.view import resize_image


def sheet_of(columns: Sequence[Tensor]) -> UInt8[Tensor, "3 h w"]:
    """Arrange batches of images in [0, 1] as columns, one example per row, at the last's size."""
    side = int(columns[-1].shape[-1])
    resized = [resize_image(images.float().cpu().clamp(0, 1), (side, side)) for images in columns]
    rows = torch.cat(resized, dim=-1)  # n 3 side (columns side)
    return (torch.cat(list(rows), dim=-2) * 255).round().to(torch.uint8)


def write_sheet(path: Path, sheet: UInt8[Tensor, "3 h w"]) -> None:
    """Write a sheet as PNG."""
    with write_aside(path) as aside:
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(aside)
