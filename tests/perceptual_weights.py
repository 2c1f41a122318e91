"""Weights of the perceptual trunks and of image features: random numbers, few channels."""

import torch

from zeronvs.depth.builtin import DepthNet

ALEX = (("1.0", 3, 4, 11), ("2.5", 4, 6, 5), ("3.9", 6, 8, 3), ("4.11", 8, 6, 3), ("5.13", 6, 6, 3))
ALEX_BLURS = (("1.1", 4), ("2.4", 4), ("3.8", 6))
VGG_SLICES = ((0, 2), (6, 8), (12, 14, 16), (20, 22, 24), (28, 30, 32))


def _blur(channels: int) -> torch.Tensor:
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    return (line[:, None] * line).expand(channels, 1, 3, 3).clone()


def _conv(weights: dict, name: str, inputs: int, outputs: int, size: int) -> None:
    generator = torch.Generator().manual_seed(len(weights))
    scale = (inputs * size * size) ** -0.5
    weights[f"net.slice{name}.weight"] = scale * torch.randn(
        outputs, inputs, size, size, generator=generator
    )
    weights[f"net.slice{name}.bias"] = 0.1 * torch.ones(outputs)


def _scaling() -> dict[str, torch.Tensor]:
    return {
        "scaling_layer.shift": torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None],
        "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.450])[None, :, None, None],
    }


def _heads(weights: dict, channels: list[int]) -> None:
    for index, count in enumerate(channels):
        weights[f"lin{index}.model.1.weight"] = torch.full((1, count, 1, 1), 1 / count)


def alex_weights() -> dict[str, torch.Tensor]:
    weights = _scaling()
    for name, inputs, outputs, size in ALEX:
        _conv(weights, name, inputs, outputs, size)
    for name, channels in ALEX_BLURS:
        weights[f"net.slice{name}.filt"] = _blur(channels)
    _heads(weights, [outputs for _, _, outputs, _ in ALEX])
    return weights


def vgg_weights() -> dict[str, torch.Tensor]:
    weights, inputs = _scaling(), 3
    for number, indices in enumerate(VGG_SLICES, start=1):
        outputs = 3 + number
        if number > 1:
            weights[f"net.slice{number}.{indices[0] - 1}.filt"] = _blur(inputs)
        for index in indices:
            _conv(weights, f"{number}.{index}", inputs, outputs, 3)
            inputs = outputs
    _heads(weights, [4, 5, 6, 7, 8])
    return weights


FEATURE_CHANNELS = 8


def feature_weights() -> dict[str, torch.Tensor]:
    """Random weights by the published names, with a narrow head."""
    torch.manual_seed(0)
    net, weights = DepthNet(), {}

    def name(layers, convs, norms, prefix):
        own = list(layers.children())
        found = [layer for layer in own if isinstance(layer, torch.nn.Conv2d)]
        weights.update({f"{prefix}{n}.weight": c.weight for n, c in zip(convs, found, strict=True)})
        found = [layer for layer in own if isinstance(layer, torch.nn.BatchNorm2d)]
        for n, norm in zip(norms, found, strict=True):
            weights.update({f"{prefix}{n}.{k}": v for k, v in norm.state_dict().items()})

    name(net.stem, ["_conv_stem"], ["_bn0"], "")
    for number, block in enumerate(block for stage in net.stages for block in stage.children()):
        expanded = len([x for x in block.layers if isinstance(x, torch.nn.Conv2d)]) == 3
        convs = ["_expand_conv"] * expanded + ["_depthwise_conv", "_project_conv"]
        norms = ["_bn0"] * expanded + ["_bn1", "_bn2"]
        name(block.layers, convs, norms, f"_blocks.{number}.")
    # Random layers let little through: without the factor, features differ by less than 1e-6.
    weights["_conv_head.weight"] = 1e7 * torch.randn(FEATURE_CHANNELS, 320, 1, 1)
    norm = torch.nn.BatchNorm2d(FEATURE_CHANNELS).state_dict()
    return weights | {f"_bn1.{k}": v for k, v in norm.items()}
