"""Where NVIDIA GPUs may compute float32 as TF32, which keeps 10 of the 23 bits of the fraction.

The one place that says so; the settings of torch, which hold for the whole process, are changed for
the length of a block only. The U-Net predicts in TF32 (error .0019 of the guided noise, half that
of float16). The autoencoder's convolutions have it, too, forwards and backwards, as they have in
the published code (.0012 of a latent with TF32 everywhere). Image encoder, pose token, rays and
field have none: they are not what takes the time, and geometry needs the digits. In training the
U-Net has the program's own setting, forwards and backwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def unet_precision() -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions."""
    with _tf32(products=True, convolutions=True):
        yield


@contextmanager
def scene_precision() -> Iterator[None]:
    """Allow TF32 in convolutions alone, which only the autoencoder has beside the U-Net."""
    with _tf32(products=False, convolutions=True):
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Allow TF32 nowhere."""
    with _tf32(products=False, convolutions=False):
        yield


@contextmanager
def _tf32(*, products: bool, convolutions: bool) -> Iterator[None]:
    with (
        _allowed(torch.backends.cuda.matmul, products),
        _allowed(torch.backends.cudnn, convolutions),
    ):
        yield


@contextmanager
def _allowed(switch: Any, allowed: bool) -> Iterator[None]:
    """Set one of torch's switches inside the block."""
    operation = getattr(switch, "conv", switch)
    # Torch 2.9 has `fp32_precision` beside `allow_tf32`. Once a program has set the newer name, the
    # older cannot be read; and setting the older leaves "ieee" where the newer had "none".
    named = getattr(operation, "fp32_precision", None)
    try:
        before = switch.allow_tf32
    except RuntimeError:
        before = None
    try:
        if before is None:
            operation.fp32_precision = "tf32" if allowed else "ieee"
        else:
            switch.allow_tf32 = allowed
        yield
    finally:
        if before is not None:
            switch.allow_tf32 = before
        if named is not None:
            operation.fp32_precision = named
