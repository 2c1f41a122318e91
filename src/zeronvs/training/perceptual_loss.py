"""Perceptual term of the denoising loss, on windows around holes of the warped input."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from zeronvs.perceptual import PerceptualDistance


def perceptual_losses(
    network: PerceptualDistance,
    image: Float[Tensor, "n 3 h w"],
    truth: Float[Tensor, "n 3 h w"],
    *,
    hole: Float[Tensor, "n 1 h w"],
    timestep: Int[Tensor, " n"],
    draw: Float[Tensor, " n"],
    crop_px: int,
) -> Float[Tensor, " n"]:
    """Return perceptual distances whose mean over the batch is the term.

    Only the noisier half of the batch is evaluated (the others predict nearly what they are given);
    its distances count twice, the others are 0.

    Args:
        network: Perceptual distance.
        image: Predicted target views as they are sampled, known pixels restored.
        truth: Target views.
        hole: 1 where pixels are generated, else 0.
        timestep: Timesteps of the predictions.
        draw: Uniform numbers in [0, 1) that choose the windows.
        crop_px: Side of the windows.
    """
    chosen = timestep.argsort(descending=True, stable=True)[: max(1, len(timestep) // 2)]
    windows = hole_windows(hole[chosen], min(crop_px, truth.shape[-1]), draw[chosen.cpu()])
    crops, targets = (
        torch.stack(
            [values[index][:, *window] for index, window in zip(chosen, windows, strict=True)]
        )
        for values in (image, truth)
    )
    with torch.no_grad():
        features = network.features(targets)
    distance = network.compare(network.features(crops), features).float()
    share = len(timestep) / len(chosen)
    return torch.zeros(len(timestep), device=distance.device).index_add(0, chosen, share * distance)


def hole_windows(
    hole: Float[Tensor, "n 1 h w"], side_px: int, draw: Float[Tensor, " n"]
) -> list[tuple[slice, slice]]:
    """Choose one square window per image, more likely where more of it is a hole.

    Args:
        hole: 1 where pixels are generated, else 0.
        side_px: Side of the windows.
        draw: Uniform numbers in [0, 1).
    """
    stride = max(1, side_px // 4)
    share = F.avg_pool2d(hole, side_px, stride=stride)[:, 0].cpu()
    columns = share.shape[-1]
    # Squared: windows that are mostly holes teach most. The offset is for images without holes.
    weight = share.flatten(1).square() + 1e-4
    # Inverse of the cumulative distribution: the first window whose cumulative weight exceeds u.
    cumulative = weight.cumsum(1) / weight.sum(1, keepdim=True)
    index = torch.searchsorted(cumulative, draw.cpu()[:, None], right=True)[:, 0]
    index = index.clamp_max(weight.shape[1] - 1)
    corners = [(int(i) // columns * stride, int(i) % columns * stride) for i in index]
    return [(slice(top, top + side_px), slice(left, left + side_px)) for top, left in corners]
