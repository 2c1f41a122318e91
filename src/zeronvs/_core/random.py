"""Random numbers as arguments: one seed per sample, drawn on the CPU.

A sample is then the same alone, in a batch, and on any device.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def seeded_generator(seed: int) -> torch.Generator:
    """Return a CPU generator that starts from `seed`."""
    return torch.Generator("cpu").manual_seed(seed)


def sent(drawn: Tensor, device: torch.device | str) -> Tensor:
    """Return numbers that were drawn on the CPU on a device; on CUDA the host does not wait for it.

    CUDA copies them aside before it returns, so that they may be freed or changed meanwhile. Other
    devices do not promise that.
    """
    return drawn.to(device, non_blocking=torch.device(device).type == "cuda")


def draw_noise(
    generators: Sequence[torch.Generator], shape: tuple[int, ...]
) -> Float[Tensor, "batch ..."]:
    """Draw standard normal noise of `shape`, one sample per generator, on the CPU."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])
