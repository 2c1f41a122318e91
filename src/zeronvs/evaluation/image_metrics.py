"""The metrics of one table, each with its backbone, and the record of one measured number."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.evaluation.lpips import Lpips
from zeronvs.evaluation.metrics import KID, ClipSimilarity, psnr, ssim
from zeronvs.perceptual import PerceptualDistance

TSED = "TSED"
BACKBONES = {
    "ST-LPIPS": "AlexNet (shift-tolerant)",
    "LPIPS (VGG16)": "VGG16",
    "LPIPS (AlexNet)": "AlexNet",
    KID: "EfficientNet-Lite0",
    TSED: "SIFT",
}
"""Network or features behind a metric; PSNR and SSIM have none, CLIP-I that of its model."""
DIGITS = {"PSNR": 2}
"""Decimals that are printed; 3 of the others."""
HIGHER_IS_BETTER = ("PSNR", "SSIM", "CLIP-I", TSED)


@dataclass(frozen=True, kw_only=True)
class MetricRecord:
    """One number, with what it takes to compare it."""

    metric: str
    backbone: str | None
    resolution: str
    """Width x height of the images that were measured, pixels."""
    views: int
    """Images that it is the mean over."""
    seed: int
    value: float | None
    """None: not a number, as the kernel distance of one image."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageMetrics:
    """PSNR and SSIM, and the networks that there are weights for."""

    lpips: tuple[Lpips, ...] = ()
    perceptual: PerceptualDistance | None = None
    clip: ClipSimilarity | None = None
    device: torch.device | str = "cpu"
    """Where the networks are, and images are compared."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics, in the order of a table."""
        names = ["PSNR", "SSIM", *(net.name for net in self.lpips)]
        names += ["ST-LPIPS"] if self.perceptual is not None else []
        return (*names, *([self.clip.name] if self.clip is not None else []))

    def backbone(self, metric: str) -> str | None:
        """Return the network behind a metric; None for a formula."""
        if self.clip is not None and metric == self.clip.name:
            return self.clip.backbone
        return BACKBONES.get(metric)

    def prepare(self, truth: Float[Tensor, "b 3 h w"]) -> "Truth":
        """Compute once what every comparison with these images needs."""
        with torch.no_grad():
            truth = truth.to(self.device)
            return Truth(
                truth,
                [net.features(truth) for net in self.lpips],
                [] if self.perceptual is None else self.perceptual.features(truth),
            )

    @torch.no_grad()
    def measure(
        self, images: Float[Tensor, "b 3 h w"], truth: "Truth"
    ) -> dict[str, Float[Tensor, " b"]]:
        """Return metric -> value of each image in [0, 1] against the true one."""
        images = images.to(self.device)
        found = {"PSNR": psnr(images, truth.image), "SSIM": ssim(images, truth.image)}
        for net, features in zip(self.lpips, truth.lpips, strict=True):
            found[net.name] = net.compare(net.features(images), features)
        if self.perceptual is not None:
            ours = self.perceptual.features(images)
            found["ST-LPIPS"] = self.perceptual.compare(ours, truth.perceptual)
        if self.clip is not None:
            found[self.clip.name] = self.clip(images, truth.image)
        return {name: values.cpu() for name, values in found.items()}


class Truth(NamedTuple):
    """True images, with their features for each network."""

    image: Float[Tensor, "b 3 h w"]
    lpips: list[list[Tensor]]
    perceptual: list[Tensor]


def printed(metric: str, value: float) -> str:
    """Return a value with the decimals of its metric."""
    return f"{value:.{DIGITS.get(metric, 3)}f}"


def better(metric: str) -> str:
    """Return "higher" or "lower"."""
    return "higher" if metric in HIGHER_IS_BETTER else "lower"
