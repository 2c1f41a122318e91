"""The perceptual distance with random weights in both trunks."""

from pathlib import Path

import pytest
import torch
from perceptual_weights import alex_weights, vgg_weights
from torch import nn

from zeronvs._core.errors import InputError
from zeronvs.perceptual import PerceptualDistance

TRUNKS = {"alex": alex_weights, "vgg": vgg_weights}


def images(seed: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_equal_images_have_no_distance_and_others_have_one_that_is_symmetric(trunk: str):
    perceptual = PerceptualDistance(TRUNKS[trunk]())
    one, other = images(0), images(1)
    torch.testing.assert_close(perceptual(one, one), torch.zeros(2))
    distance = perceptual(one, other)
    assert bool((distance > 0).all())
    torch.testing.assert_close(distance, perceptual(other, one))
    torch.testing.assert_close(distance[:1], perceptual(one[:1], other[:1]))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_features_halve_their_resolution_and_have_unit_length(trunk: str):
    perceptual = PerceptualDistance(TRUNKS[trunk]())
    maps = perceptual.features(images(0))
    assert len(maps) == 5
    for features in maps:
        length = features.norm(dim=1)
        assert bool(((length - 1).abs() < 1e-3).logical_or(length < 1e-6).all())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_gradients_reach_the_image_and_no_weight_is_trained(trunk: str):
    perceptual = PerceptualDistance(TRUNKS[trunk]())
    image = images(0).requires_grad_()
    perceptual(image, images(1)).sum().backward()
    assert float(image.grad.abs().sum()) > 0
    assert list(perceptual.parameters()) == []


def test_the_alex_trunk_is_the_published_chain_of_layers():
    weights = alex_weights()

    def conv(name: str, padding: int) -> nn.Conv2d:
        weight = weights[f"net.slice{name}.weight"]
        outputs, inputs, size, _ = weight.shape
        layer = nn.Conv2d(inputs, outputs, size, padding=padding)
        layer.load_state_dict({"weight": weight, "bias": weights[f"net.slice{name}.bias"]})
        return layer

    def blur(name: str) -> nn.Sequential:
        filters = weights[f"net.slice{name}.filt"]
        layer = nn.Conv2d(len(filters), len(filters), 3, 2, groups=len(filters), bias=False)
        layer.load_state_dict({"weight": filters})
        return nn.Sequential(nn.ReflectionPad2d(2), layer)

    slices = [
        nn.Sequential(conv("1.0", 2), blur("1.1"), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), blur("2.4"), conv("2.5", 2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), blur("3.8"), conv("3.9", 1), nn.ReLU()),
        nn.Sequential(conv("4.11", 1), nn.ReLU()),
        nn.Sequential(conv("5.13", 1), nn.ReLU()),
    ]
    image = images(3)
    x = (image * 2 - 1 - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"]
    for layers, ours in zip(slices, PerceptualDistance(weights).features(image), strict=True):
        x = layers(x)
        torch.testing.assert_close(ours, x / (x.norm(dim=1, keepdim=True) + 1e-10))


def test_weights_are_read_from_a_file_and_a_wrong_file_is_refused(tmp_path: Path):
    path = tmp_path / "alex_shift_tolerant.pth"
    torch.save(alex_weights(), path)
    one, other = images(0), images(1)
    expected = PerceptualDistance(alex_weights())(one, other)
    torch.testing.assert_close(PerceptualDistance.from_file(path)(one, other), expected)
    torch.save({"some": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="not an ST-LPIPS weight file"):
        PerceptualDistance.from_file(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not an ST-LPIPS weight file"):
        PerceptualDistance.from_file(path)
    with pytest.raises(InputError, match="not an ST-LPIPS weight file"):
        PerceptualDistance.from_file(tmp_path / "missing.pth")
