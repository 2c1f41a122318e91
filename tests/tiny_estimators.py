"""Tiny estimators of others: folders of transformers, and installations of MoGe and GeoCalib."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DepthProConfig,
    DepthProForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
)

PATCH_PX = 14
DINO = {"hidden_size": 16, "num_attention_heads": 2, "mlp_ratio": 2}


def depth_anything(folder: Path, kind: str = "relative", licence: str | None = None) -> Path:
    """Save a Depth Anything with narrow layers and random weights, and its image processor."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = Dinov2Config(
        **DINO, num_hidden_layers=4, image_size=56, patch_size=PATCH_PX, out_features=stages,
        reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = DepthAnythingForDepthEstimation(config).eval()
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        _spread_out(network.head.conv3, lambda: network(pixel_values=torch.randn(1, 3, 56, 70)))
    network.save_pretrained(folder)
    size = {"height": 56, "width": 56}
    processor = DPTImageProcessor(
        size=size, keep_aspect_ratio=True, ensure_multiple_of=PATCH_PX, resample=3, do_pad=False
    )
    processor.save_pretrained(folder)
    if licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# Depth\n")
    return folder


def _spread_out(last: nn.Conv2d, predict: Callable[[], object]) -> None:
    """Change the last layer so that its output varies by a third about 1, as no random one does."""
    seen: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    predict()
    hook.remove()
    assert last.bias is not None
    factor = 1 / (3 * seen[0].std())
    last.weight.mul_(factor)
    last.bias.copy_(1 + factor * (last.bias - seen[0].mean()))


def depth_pro(folder: Path, *, with_fov: bool = True) -> Path:
    """Save a Depth Pro with narrow layers and random weights."""
    dino = {**DINO, "model_type": "dinov2", "image_size": 16, "patch_size": 2}
    dino["num_hidden_layers"] = 4
    config = DepthProConfig(
        fusion_hidden_size=8, patch_size=16, intermediate_hook_ids=[3, 1],
        intermediate_feature_dims=[8, 8], scaled_images_ratios=[0.25, 0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.5, 0.25], scaled_images_feature_dims=[8, 8, 8],
        use_fov_model=with_fov, image_model_config=dict(dino), patch_model_config=dict(dino),
        fov_model_config=dict(dino),
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = DepthProForDepthEstimation(config).eval()
        for parameter in network.head.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        _spread_out(network.head.layers[4], lambda: network(pixel_values=torch.randn(1, 3, 64, 64)))
        if with_fov:
            network.fov_model.head.layers[-1].bias.fill_(60.0)
    network.save_pretrained(folder)
    return folder


MOGE = '''
import torch
from torch import nn


class MoGeModel(nn.Module):
    """The interface of MoGe-2: deeper to the right, nothing in the upper quarter."""

    def __init__(self, far):
        super().__init__()
        self.far = nn.Parameter(torch.tensor(far))

    @classmethod
    def from_pretrained(cls, path):
        return cls(torch.load(path, map_location="cpu", weights_only=True)["far"])

    @torch.inference_mode()
    def infer(self, image, use_fp16=True):
        assert not use_fp16
        batch, _, height, width = image.shape
        depth = torch.linspace(2.0, 1.0, width) * self.far
        depth = depth.flip(0).expand(batch, height, width).clone()
        depth[:, : height // 4] = torch.inf
        intrinsics = torch.tensor([[0.6, 0, 0.5], [0, 0.8, 0.5], [0, 0, 1]])
        return {"depth": depth, "intrinsics": intrinsics.expand(batch, 3, 3)}
'''
GEOCALIB = '''
from types import SimpleNamespace

import torch
from torch import nn


class GeoCalib(nn.Module):
    """The interface of GeoCalib: the calibration that the file of weights holds."""

    def __init__(self, weights="pinhole"):
        super().__init__()
        state = torch.load(weights, map_location="cpu", weights_only=True)
        self.up, self.vfov = nn.Parameter(state["up"]), nn.Parameter(state["vfov"])

    @torch.no_grad()
    def calibrate(self, img):
        assert img.ndim == 3
        return {
            "camera": SimpleNamespace(vfov=self.vfov.detach()[None]),
            "gravity": SimpleNamespace(vec3d=self.up.detach()[None]),
            "vfov_uncertainty": torch.tensor([0.2]),
            "pitch_uncertainty": torch.tensor([0.1]),
        }
'''


def _install(monkeypatch: pytest.MonkeyPatch, place: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        monkeypatch.setitem(sys.modules, module, None)  # so that the end of the test removes it
        del sys.modules[module]
    monkeypatch.syspath_prepend(place)


def install_moge(monkeypatch: pytest.MonkeyPatch, place: Path) -> Path:
    """Install a package with the interface of MoGe-2, and return the file of its weights."""
    files = {"moge/__init__.py": "", "moge/model/__init__.py": "", "moge/model/v2.py": MOGE}
    _install(monkeypatch, place / "site", files)
    (place / "moge-2").mkdir()
    torch.save({"far": 4.0}, place / "moge-2" / "model.pt")
    return place / "moge-2" / "model.pt"


def install_geocalib(
    monkeypatch: pytest.MonkeyPatch, place: Path, up: tuple[float, float, float], vfov: float
) -> Path:
    """Install a package with the interface of GeoCalib, and return the file of its weights."""
    _install(monkeypatch, place / "site", {"geocalib/__init__.py": GEOCALIB})
    torch.save({"up": torch.tensor(up), "vfov": torch.tensor(vfov)}, place / "pinhole.tar")
    return place / "pinhole.tar"
