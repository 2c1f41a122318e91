"""Reading the weights of a diffusers folder one tensor at a time: ours, or one of the community."""

import re
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.architecture import Architecture
from zeronvs.checkpoints.file_kind import FileKind, file_kind
from zeronvs.checkpoints.folder_architecture import PROJECTION_FOLDERS
from zeronvs.checkpoints.reader import CheckpointReader
from zeronvs.checkpoints.weight_files import Reader, SafetensorsReader
from zeronvs.diffusion.loading import shard_names

COMPONENTS = {
    "unet": ("unet",),
    "vae": ("vae",),
    "image_encoder": ("image_encoder",),
    "cc_projection": PROJECTION_FOLDERS,
}
"""Each component with the folders it may lie in."""
_FORMER_NAMES = {
    "cc_projection": {"projection": "proj"},  # CLIPCameraProjection of bennyguo
    "vae": {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"},
}
"""Names of layers that other pipelines, and diffusers before 0.15, gave to the same numbers."""
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def weights_name(component: str) -> str:
    """Return the name of a component's weight file, as diffusers and transformers have it."""
    is_transformers = component == "image_encoder"
    return "model.safetensors" if is_transformers else "diffusion_pytorch_model.safetensors"


def weight_names(component: str, names: Collection[str]) -> list[str]:
    """Choose the weight files of a component among the names in its folder.

    Variants of a moving average come first, since the published code samples with it; then full
    precision before half, and safetensors before pickles.

    Returns:
        One file; or an index and the files that it may list; nothing where there is none.
    """
    stem = re.escape(weights_name(component).removesuffix(".safetensors"))
    orders = (
        rf"{stem}\.\w+_ema\.safetensors",
        rf"{stem}\.safetensors",
        rf"{stem}\.safetensors\.index\.json|{stem}-\d+-of-\d+\.safetensors",
        rf"{stem}\.\w+\.safetensors",
        r"(diffusion_)?pytorch_model\.bin",
    )
    for order in orders:
        found = sorted(name for name in names if re.fullmatch(order, name))
        if found:
            return found if "index" in order else found[:1]
    return []


class FolderReader:
    """The open weight files of a pipeline folder; use it in a `with` statement.

    Attributes:
        paths: The files.
    """

    def __init__(self, folder: Path) -> None:
        """Open the weight files, sharded or not.

        Raises:
            InputError: One is missing or damaged.
        """
        self._folder = folder
        self._parts: dict[str, Reader] = {}
        self.paths: list[Path] = []
        with ExitStack() as opened:
            for component, places in COMPONENTS.items():
                place = next((p for p in places if (folder / p).is_dir()), places[0])
                paths = _weight_files(folder / place, component)
                self.paths += paths
                if paths[0].suffix == ".safetensors" or len(paths) > 1:
                    reader: Reader = SafetensorsReader(paths)
                elif file_kind(paths[0]) is FileKind.SAFETENSORS:
                    reader = SafetensorsReader(paths)
                else:
                    reader = CheckpointReader(paths[0])
                self._parts[component] = opened.enter_context(reader)
            self._stack = opened.pop_all()

    def __enter__(self) -> "FolderReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def is_average(self) -> bool:
        """Whether the denoiser's weights are a moving average, by the variant of their file."""
        return bool(re.search(r"_ema\.", self.paths[0].name))

    @property
    def projection_columns(self) -> int:
        """Numbers that the projection takes: those of the image, then those of the camera.

        Raises:
            InputError: There is no projection.
        """
        name = self._stored_name("cc_projection", "projection.weight")
        shape = self._parts["cc_projection"].tensors[name].shape
        if len(shape) != 2:
            raise InputError(f"{self._folder}: {name} has shape {tuple(shape)}; it is no layer.")
        return shape[1]

    def check(self, architecture: Architecture) -> None:
        """Refuse weights that are not those of this architecture, by name, shape and type.

        Raises:
            InputError: A tensor is missing, has a wrong shape, or does not hold floats.
        """
        for component, module in architecture.empty_components().items():
            for name, expected in module.state_dict().items():
                stored = self.empty(component, name)
                if tuple(stored.shape) != tuple(expected.shape):
                    raise InputError(
                        f"{self._folder / component}: {name} has shape {tuple(stored.shape)}; its "
                        f"configuration needs {tuple(expected.shape)}."
                    )
                if stored.dtype not in _FLOATS:
                    raise InputError(
                        f"{self._folder / component}: {name} has numbers of type {stored.dtype}, "
                        "which do not fit here."
                    )

    def empty(self, component: str, name: str) -> Shaped[Tensor, "..."]:
        """Return a tensor of the right shape and dtype, without its numbers.

        Raises:
            InputError: It is missing.
        """
        stored = self._parts[component].tensors[self._stored_name(component, name)]
        return torch.empty_like(stored, device="meta", memory_format=torch.contiguous_format)

    def load(self, component: str, name: str) -> Shaped[Tensor, "..."]:
        """Read one tensor."""
        return self._parts[component].load(self._stored_name(component, name))

    def _stored_name(self, component: str, name: str) -> str:
        tensors = self._parts[component].tensors
        layer, _, kind = name.rpartition(".")
        for ours, former in _FORMER_NAMES.get(component, {}).items():
            if name not in tensors and (layer == ours or layer.endswith(f".{ours}")):
                return self._known(component, f"{layer.removesuffix(ours)}{former}.{kind}", name)
        return self._known(component, name, name)

    def _known(self, component: str, stored: str, name: str) -> str:
        if stored not in self._parts[component].tensors:
            raise InputError(f"{self._folder / component} lacks the tensor {name}.")
        return stored


def _weight_files(folder: Path, component: str) -> list[Path]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    chosen = weight_names(component, names)
    if not chosen:
        raise InputError(
            f"{folder / weights_name(component)} is missing; is this a pipeline folder?"
        )
    indices = [name for name in chosen if name.endswith(".index.json")]
    if indices:
        return [folder / name for name in shard_names(folder / indices[0])]
    return [folder / chosen[0]]
