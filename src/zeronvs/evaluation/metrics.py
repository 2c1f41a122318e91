"""Metrics of images in [0, 1], one number per image, and baselines without a model."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs._core.optional import packaged_file
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import fill_holes, fill_nearest, forward_warp

PERCEPTUAL_FILE = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"
"""The AlexNet trunk: the one that no training loss uses."""
SMALLEST_ERROR = 1e-10
"""Keeps the PSNR of equal images finite: 100 dB."""


def psnr(
    image: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    """Return the peak signal-to-noise ratio in dB, over all pixels and channels of each image."""
    error = (image - reference).square().mean((1, 2, 3)).clamp_min(SMALLEST_ERROR)
    return -10 * error.log10()


def ssim(
    image: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"], *, window_px: int = 7
) -> Float[Tensor, " b"]:
    """Return the structural similarity in [-1, 1], the mean over channels.

    Uniform window, sample covariance, only windows that lie inside the image: as scikit-image's
    `structural_similarity` with data range 1 (Wang et al. 2004, with K1 = .01 and K2 = .03).
    """
    c_1, c_2 = 0.01**2, 0.03**2
    count = window_px**2
    x, y = image.double(), reference.double()

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window_px, stride=1)

    mean_x, mean_y = mean(x), mean(y)
    unbiased = count / (count - 1)
    variance_x = unbiased * (mean(x * x) - mean_x**2)
    variance_y = unbiased * (mean(y * y) - mean_y**2)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1)
    structure = (2 * covariance + c_2) / (variance_x + variance_y + c_2)
    return (luminance * structure).mean((1, 2, 3)).to(image.dtype)


def find_perceptual_weights() -> Path | None:
    """Return the weight file of an installed `stlpips-pytorch`, without importing that package."""
    try:
        return packaged_file(PERCEPTUAL_FILE, "stlpips-pytorch")
    except InputError:
        return None


WARP = "input warped, holes inpainted"
"""Holes are a smooth continuation (push-pull pyramid)."""
WARP_NEAREST = "input warped, nearest fill"
"""A hole takes the colour of the nearest known pixel. The streaks look bad but are sharp, which
perceptual distances reward: the row shows how much of a score is due to sharpness."""
WARP_MIRROR = "input warped, mirror fill"
"""Holes are filled by reflection (`continue_image`). The built-in model starts from this image, so
the difference to its row is the contribution of its network."""


def warped_input(view: View, target: Camera) -> dict[str, Float[Tensor, "b 3 h w"]]:
    """Return the inputs warped along their depth into the targets, with each kind of filling."""
    images, validity = forward_warp(view, target)
    known = images * validity
    return {
        WARP: fill_holes(known, validity),
        WARP_NEAREST: fill_nearest(known, validity),
        WARP_MIRROR: images,
    }
