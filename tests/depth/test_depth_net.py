"""The small depth and field-of-view network, with random weights."""

import math
from pathlib import Path

import pytest
import torch

from zeronvs.depth.builtin import DepthNet, _merged, load_builtin_depth, load_imagenet_encoder
from zeronvs.protocols import GeometryEstimator


@pytest.fixture(scope="module")
def net() -> DepthNet:
    torch.manual_seed(0)
    return DepthNet(input_size_px=64, decoder_channels=(8, 8, 8, 8)).eval()


def photographs(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("size", [64, 96, 33])
def test_relative_depth_has_the_size_of_the_image_and_its_near_quantile_is_one(
    net: DepthNet, size: int
):
    depth = net.estimate(photographs(2, size)).depth_z
    assert depth.shape == (2, size, size)
    assert bool((depth > 0).all())
    near = torch.quantile(depth[:, ::4, ::4].flatten(1), 0.2, dim=1)
    torch.testing.assert_close(near, torch.ones(2))


def test_a_photograph_is_estimated_alike_alone_and_in_a_batch(net: DepthNet):
    images = photographs(3, 64)
    torch.testing.assert_close(net.estimate(images).depth_z[1:2], net.estimate(images[1:2]).depth_z)


def test_a_mirrored_photograph_has_the_mirrored_depth(net: DepthNet):
    images = photographs(2, 64)
    mirrored = net.estimate(images.flip(-1)).depth_z
    # Up to scale: its quantile is taken of every fourth pixel, counted from the left.
    ratio = mirrored.flip(-1) / net.estimate(images).depth_z
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))


def test_larger_inputs_give_the_edges_and_the_usual_one_the_layout():
    """The finer disparity has the true edge, and a wrong slope; the coarse one a wide ramp."""
    u = torch.arange(128).float()
    truth = torch.where(u < 70, 1.0, 0.5).expand(2, 96, -1)
    coarse = torch.nn.functional.avg_pool1d(truth, 9, 4, 4)[:, ::4]
    finer = truth * (0.6 + 0.8 * u / 128) + 0.2
    merged = _merged(coarse, finer)
    assert merged.shape == truth.shape
    enlarged = torch.nn.functional.interpolate(coarse[:, None], (96, 128), mode="bilinear")[:, 0]
    beside = slice(66, 74)
    error, before = ((x - truth)[..., beside].abs().mean() for x in (merged, enlarged))
    assert float(error) < 0.35 * float(before)
    assert float((merged - truth)[..., 20:50].abs().amax()) < 0.05
    assert float((merged - truth)[..., 90:110].abs().amax()) < 0.05


def test_a_large_photograph_is_looked_at_in_several_sizes(net: DepthNet):
    sizes = []
    handle = net.stem.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape))
    depth_z = net.estimate(torch.rand(1, 3, 200, 300)).depth_z
    handle.remove()
    assert depth_z.shape == (1, 200, 300)
    assert [shape[-2] for shape in sizes] == [64, 128, 192]  # 64, 115 and 200 in whole 32s
    assert all(shape[0] == 2 for shape in sizes)  # with the mirror image


def test_the_layout_of_a_large_photograph_is_that_of_the_usual_input(net: DepthNet, monkeypatch):
    """At larger inputs this network sees everything ten times nearer to the left."""
    u = torch.arange(64).float()

    def predicted(image, side_px):
        wide = torch.nn.functional.interpolate(u[None, None], round(1.5 * side_px), mode="linear")
        slope = 1.0 if side_px == 64 else 1 + 9 * (64 - wide[0]) / 64
        return (slope * (1 + 0.5 * wide[0] / 64)).expand(1, side_px, -1), torch.zeros(1, 2)

    monkeypatch.setattr(net, "_disparity", predicted)
    disparity = 1 / net.estimate(torch.rand(1, 3, 200, 300)).depth_z[0]
    ratio = disparity[:, 280].mean() / disparity[:, 20].mean()
    assert float(ratio) == pytest.approx(1.42, abs=0.1)


def test_field_of_view_is_an_angle_with_a_positive_spread(net: DepthNet):
    geometry = net.estimate(photographs(3, 48))
    fov, spread = geometry.fov_y_rad, geometry.fov_spread_rad
    assert fov.shape == spread.shape == (3,)
    assert bool(((fov > 0) & (fov < math.pi)).all())
    assert bool((spread > 0).all())


def test_the_raw_prediction_is_positive_disparity_at_half_the_resolution(net: DepthNet):
    disparity, fov = net(photographs(1, 64))
    assert disparity.shape == (1, 32, 32)
    assert bool((disparity > 0).all())
    assert fov.shape == (1, 2)


def test_estimating_leaves_no_gradients(net: DepthNet):
    assert not net.estimate(photographs(1, 64)).depth_z.requires_grad


def test_a_saved_network_predicts_the_same(net: DepthNet, tmp_path: Path):
    net.save_pretrained(tmp_path)
    loaded = DepthNet.from_pretrained(tmp_path).eval()
    assert loaded.config["input_size_px"] == 64
    image = photographs(1, 64)
    torch.testing.assert_close(loaded.estimate(image).depth_z, net.estimate(image).depth_z)


def published_names(net: DepthNet) -> dict[str, torch.Tensor]:
    """Return weights under the names that `efficientnet-pytorch` gives to the encoder's layers."""
    weights = {}
    blocks = [("", net.stem, ["_conv_stem"], ["_bn0"])]
    number = 0
    for stage in net.stages:
        for block in stage:
            expanded = number > 0
            convs = ["_expand_conv"] * expanded + ["_depthwise_conv", "_project_conv"]
            norms = ["_bn0"] * expanded + ["_bn1", "_bn2"]
            blocks.append((f"_blocks.{number}.", block.layers, convs, norms))
            number += 1
    for prefix, layers, convs, norms in blocks:
        own = {torch.nn.Conv2d: iter(convs), torch.nn.BatchNorm2d: iter(norms)}
        for layer in layers:
            if type(layer) in own:
                name = prefix + next(own[type(layer)])
                for key, value in layer.state_dict().items():
                    weights[f"{name}.{key}"] = value.clone()
    return weights


def test_imagenet_weights_find_their_layers(net: DepthNet):
    weights = published_names(net)
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    torch.manual_seed(9)
    other = DepthNet(input_size_px=64, decoder_channels=(8, 8, 8, 8)).eval()
    load_imagenet_encoder(other, weights)
    for part in ("stem", "stages"):
        ours = getattr(other, part).state_dict()
        for name, value in getattr(net, part).state_dict().items():
            torch.testing.assert_close(ours[name], value)


def test_a_missing_imagenet_weight_is_named(net: DepthNet):
    weights = published_names(net)
    del weights["_blocks.3._bn1.weight"]
    with pytest.raises(KeyError, match=r"_blocks\.3\._bn1\.weight"):
        load_imagenet_encoder(DepthNet(input_size_px=64, decoder_channels=(8, 8, 8, 8)), weights)


def test_the_shipped_network_is_found_and_predicts_what_the_protocol_promises():
    net = load_builtin_depth()
    assert isinstance(net, GeometryEstimator)
    assert not net.training
    assert net.dtype == torch.float32
    geometry = net.estimate(photographs(2, 128))
    assert geometry.kind == "relative"
    assert geometry.depth_z.shape == (2, 128, 128)
    assert geometry.fov_y_rad.shape == geometry.fov_spread_rad.shape == (2,)


def test_images_are_moved_to_the_precision_of_the_network_and_results_are_float32():
    net = load_builtin_depth()
    exact = net.estimate(photographs(1, 64))
    rounded = net.to(torch.bfloat16).estimate(photographs(1, 64))
    assert rounded.depth_z.dtype == rounded.fov_y_rad.dtype == torch.float32
    assert ((rounded.depth_z - exact.depth_z).abs() / exact.depth_z).mean() < 0.05


@pytest.mark.gpu
def test_images_on_the_cpu_are_moved_to_the_device_of_the_network():
    geometry = load_builtin_depth(device="cuda").estimate(photographs(1, 64))
    assert geometry.depth_z.device.type == "cpu"
