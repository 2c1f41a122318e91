"""Shift-tolerant perceptual distance (ST-LPIPS, arXiv:2207.13686) from a local weight file.

The weights lie in the package `stlpips-pytorch` (BSD-2); the trunks are built here, because that
package imports torchvision. A network that serves in a training loss must not serve in the report:
training uses the VGG trunk, evaluation the AlexNet one.
"""

from pathlib import Path
from pickle import PickleError

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zeronvs._core.errors import InputError

VGG_SLICES = ((0, 2), (6, 8), (12, 14, 16), (20, 22, 24), (28, 30, 32))
"""Indices of the convolutions of each slice; blurred pooling stands between slices."""
NEEDED = (
    "scaling_layer.shift",
    "scaling_layer.scale",
    "net.slice1.0.weight",
    "lin4.model.1.weight",
)


class PerceptualDistance(nn.Module):
    """Distance between images in [0, 1]; 0 = the same to this network."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """Build the trunk that the weights are for.

        Args:
            weights: The state dict of `alex_shift_tolerant.pth` or `vgg_shift_tolerant.pth`.

        Raises:
            ValueError: These are other weights.
        """
        super().__init__()
        missing = [name for name in NEEDED if not isinstance(weights.get(name), Tensor)]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        self.is_vgg = "net.slice1.2.weight" in weights
        for name, value in weights.items():
            self.register_buffer(name.replace(".", "_"), value.float(), persistent=False)

    @classmethod
    def from_file(cls, path: Path) -> "PerceptualDistance":
        """Read a weight file (tensors only: no pickled code is run).

        Raises:
            InputError: There is no such file, or it holds something else.
        """
        try:
            return cls(dict(torch.load(path, map_location="cpu", weights_only=True)))
        except (OSError, RuntimeError, TypeError, ValueError, EOFError, PickleError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path} is not an ST-LPIPS weight file: {reason}") from error

    def features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the five feature maps, each with unit length over its channels."""
        shift, scale = self._weight("scaling_layer.shift"), self._weight("scaling_layer.scale")
        x = (image * 2 - 1 - shift) / scale
        maps = self._vgg(x) if self.is_vgg else self._alex(x)
        return [m / (m.square().sum(1, keepdim=True).sqrt() + 1e-10) for m in maps]

    def forward(
        self, image: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Return the distance of each pair."""
        return self.compare(self.features(image), self.features(reference))

    def compare(self, ours: list[Tensor], theirs: list[Tensor]) -> Float[Tensor, " b"]:
        """Return the distance between feature maps from `features`."""
        total = torch.zeros(ours[0].shape[0], device=ours[0].device)
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            weight = self._weight(f"lin{index}.model.1.weight")
            total = total + F.conv2d((a.float() - b.float()).square(), weight).mean((1, 2, 3))
        return total

    def _weight(self, name: str) -> Tensor:
        return self.get_buffer(name.replace(".", "_"))

    def _conv(self, x: Tensor, name: str, **keywords: int) -> Tensor:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return F.relu(F.conv2d(x, weight, bias, **keywords))

    def _blur(self, x: Tensor, name: str, pad: int) -> Tensor:
        x = F.pad(x, (pad, pad, pad, pad), mode="reflect")
        return F.conv2d(x, self._weight(f"{name}.filt"), stride=2, groups=x.shape[1])

    def _vgg(self, x: Tensor) -> list[Tensor]:
        maps = []
        for number, indices in enumerate(VGG_SLICES, start=1):
            if number > 1:
                x = F.max_pool2d(x, 2, stride=1)
                x = self._blur(x, f"net.slice{number}.{indices[0] - 1}", 2)
            for index in indices:
                x = self._conv(x, f"net.slice{number}.{index}", padding=1)
            maps.append(x)
        return maps

    def _alex(self, x: Tensor) -> list[Tensor]:
        pad = 2  # "pad_more" of the published trunk
        weight, bias = self._weight("net.slice1.0.weight"), self._weight("net.slice1.0.bias")
        one = F.relu(self._blur(F.conv2d(x, weight, bias, padding=2), "net.slice1.1", pad))
        x = self._blur(F.max_pool2d(one, 3, stride=1), "net.slice2.4", pad)
        two = self._conv(x, "net.slice2.5", padding=2)
        x = self._blur(F.max_pool2d(two, 3, stride=1), "net.slice3.8", pad)
        three = self._conv(x, "net.slice3.9", padding=1)
        four = self._conv(three, "net.slice4.11", padding=1)
        five = self._conv(four, "net.slice5.13", padding=1)
        return [one, two, three, four, five]
