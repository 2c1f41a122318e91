"""Depth networks of others: what they predict, in the units and at the pixels of ours."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_estimators import PATCH_PX, depth_anything, depth_pro, install_moge
from torch.nn import functional as F
from transformers import (
    DepthAnythingForDepthEstimation,
    DepthProForDepthEstimation,
    DPTImageProcessor,
)

from zeronvs._core.errors import InputError
from zeronvs.depth.pretrained import FARTHEST, load_depth_model
from zeronvs.protocols import GeometryEstimator


def photograph(height_px: int = 80, width_px: int = 112) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 3, height_px, width_px))
    return F.avg_pool2d(torch.from_numpy(pixels).float() / 255, 9, 1, 4)


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_depth_anything_predicts_what_transformers_does(kind: str, tmp_path: Path):
    folder = depth_anything(tmp_path / "weights", kind)
    model, image = load_depth_model(str(folder)), photograph()
    assert isinstance(model.estimator, GeometryEstimator)
    geometry = model.estimator.estimate(image)
    network = DepthAnythingForDepthEstimation.from_pretrained(folder)
    pixels = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    inputs = DPTImageProcessor.from_pretrained(folder)(images=[pixels], return_tensors="pt")
    assert tuple(inputs["pixel_values"].shape[-2:]) == (56, 84 - 84 % PATCH_PX)
    with torch.no_grad():
        predicted = network(**inputs).predicted_depth
    expected = F.interpolate(predicted[:, None], (80, 112), mode="bilinear")[:, 0]
    assert float(expected.std() / expected.mean()) > 0.02  # not flat, so that it can be compared
    assert geometry.kind == kind
    if kind == "metric":
        torch.testing.assert_close(geometry.depth_z, expected)
        return
    # Disparity, up to its scale, but for what is farther than 50 times the near quantile.
    product = (geometry.depth_z * expected)[geometry.depth_z < 0.99 * geometry.depth_z.max()]
    torch.testing.assert_close(product, product.median().expand_as(product))
    square = geometry.depth_z[0, :, 16:96]
    assert float(square.flatten().quantile(0.2)) == pytest.approx(1, abs=0.02)


def test_a_sky_without_disparity_is_far_and_finite(tmp_path: Path):
    model = load_depth_model(str(depth_anything(tmp_path / "weights")))
    with torch.no_grad():
        head = model.estimator._network.head  # pyright: ignore
        head.conv3.bias.add_(-1.0)  # the rectifier cuts off a part of the image
    depth_z = model.estimator.estimate(photograph()).depth_z
    assert bool(depth_z.isfinite().all())
    share = float((depth_z > 0.99 * FARTHEST).float().mean())
    assert 0.01 < share < 0.99
    assert float(depth_z.max()) == pytest.approx(FARTHEST, rel=0.01)


def test_depth_that_is_nowhere_is_refused(tmp_path: Path):
    model = load_depth_model(str(depth_anything(tmp_path / "weights")))
    with torch.no_grad():
        model.estimator._network.head.conv3.bias.fill_(-1e6)  # pyright: ignore
    with pytest.raises(InputError, match="predicts no depth"):
        model.estimator.estimate(photograph())


def test_depth_pro_is_metric_by_the_field_of_view_that_it_predicts(tmp_path: Path):
    folder = depth_pro(tmp_path / "weights")
    image = photograph()
    geometry = load_depth_model(str(folder)).estimator.estimate(image)
    network = DepthProForDepthEstimation.from_pretrained(folder)
    # 16 px patches at a quarter of the size: the input is 64 px square.
    inputs = F.interpolate(2 * image - 1, (64, 64), mode="bilinear")
    with torch.no_grad():
        predicted = network(pixel_values=inputs)
    fov_x_rad = float(predicted.field_of_view.flatten().deg2rad())
    width_over_focal = 2 * math.tan(0.5 * fov_x_rad)
    assert geometry.fov_y_rad is not None
    expected_fov_y = 2 * math.atan(0.5 * width_over_focal * 80 / 112)
    assert float(geometry.fov_y_rad) == pytest.approx(expected_fov_y, rel=1e-4)
    disparity = F.interpolate(predicted.predicted_depth[:, None], (80, 112), mode="bilinear")[:, 0]
    assert float(disparity.min()) > 0.05
    torch.testing.assert_close(
        geometry.depth_z, 1 / (disparity * width_over_focal), rtol=1e-4, atol=0
    )
    assert geometry.kind == "metric"


def test_depth_pro_without_its_field_of_view_is_relative(tmp_path: Path):
    folder = depth_pro(tmp_path / "weights", with_fov=False)
    geometry = load_depth_model(str(folder)).estimator.estimate(photograph())
    assert geometry.kind == "relative"
    assert geometry.fov_y_rad is None


@pytest.mark.parametrize("given", ["file", "folder"])
def test_moge_is_metric_and_its_sky_is_as_far_as_what_is_farthest(given, monkeypatch, tmp_path):
    weights = install_moge(monkeypatch, tmp_path)
    model = load_depth_model(str(weights if given == "file" else weights.parent))
    image = photograph().requires_grad_()
    geometry = model.estimator.estimate(image)
    expected = torch.linspace(4, 8, 112).expand(80, 112).clone()
    expected[:20] = 8
    torch.testing.assert_close(geometry.depth_z[0], expected)
    assert geometry.kind == "metric"
    assert geometry.fov_y_rad is not None
    assert float(geometry.fov_y_rad) == pytest.approx(2 * math.atan(0.5 / 0.8))
    # Tensors of inference mode could not take part in this.
    (geometry.depth_z * image.mean()).sum().backward()
    assert "MIT" in model.licence


def test_moge_that_is_not_installed_is_named_with_the_command_that_installs_it(tmp_path: Path):
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"pip install git\+https://github.com/microsoft/MoGe"):
        load_depth_model(str(tmp_path))


def test_weights_that_moge_cannot_read_are_refused_in_one_line(monkeypatch, tmp_path: Path):
    weights = install_moge(monkeypatch, tmp_path)
    weights.write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be loaded by MoGe"):
        load_depth_model(str(weights))


def test_the_licence_is_that_of_the_model_card_in_the_folder(tmp_path: Path):
    without = load_depth_model(str(depth_anything(tmp_path / "a"))).licence
    assert "CC-BY-NC" in without
    folder = depth_anything(tmp_path / "b", licence="cc-by-nc-4.0")
    assert load_depth_model(str(folder)).licence.endswith("weights cc-by-nc-4.0")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "bert"}, "'bert'"),
        ({"backbone": "someone/backbone"}, "elsewhere"),
        ({"attn_implementation": "someone/kernel"}, "elsewhere"),
        ({"backbone_config": {"_attn_implementation": "someone/kernel"}}, "elsewhere"),
        ({"fusion_hidden_size": "wide"}, "cannot be loaded"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(change: dict, says: str, tmp_path: Path):
    folder = depth_anything(tmp_path / "weights")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=says) as caught:
        load_depth_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no/such/folder", "no-such-folder", "someone/depth-model"])
def test_what_is_not_here_is_not_downloaded(name: str, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"no such file|hf download someone/depth-model"):
        load_depth_model(name)
