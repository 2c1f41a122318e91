"""Reading the weights of a diffusers folder one tensor at a time."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.architecture import Architecture
from zeronvs.diffusion.loading import shard_names

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def weights_name(component: str) -> str:
    """Return the name of a component's weight file, as diffusers and transformers have it."""
    is_transformers = component == "image_encoder"
    return "model.safetensors" if is_transformers else "diffusion_pytorch_model.safetensors"


class FolderReader:
    """The open weight files of a pipeline folder; use it in a `with` statement."""

    def __init__(self, folder: Path) -> None:
        """Open the weight files, sharded or not.

        Raises:
            InputError: One is missing or damaged.
        """
        self._folder = folder
        self._files: dict[str, dict[str, Any]] = {}
        """Component -> tensor name -> the open file that holds it."""
        with ExitStack() as opened:
            for component in ("unet", "vae", "image_encoder", "cc_projection"):
                files = self._files.setdefault(component, {})
                for path in _weight_files(folder, component):
                    if not path.is_file():
                        raise InputError(
                            f"{path} is missing; is this a pipeline folder with safetensors?"
                        )
                    try:
                        file: Any = opened.enter_context(safe_open(path, framework="pt"))
                    except (SafetensorError, OSError) as error:
                        raise InputError(f"{path} is damaged or truncated ({error}).") from error
                    files.update(dict.fromkeys(file.keys(), file))
            self._stack = opened.pop_all()

    def __enter__(self) -> "FolderReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def check(self, architecture: Architecture) -> None:
        """Refuse weights that are not those of this architecture, by name, shape and type.

        Raises:
            InputError: A tensor is missing, has a wrong shape, or does not hold floats.
        """
        for component, module in architecture.empty_components().items():
            for name, expected in module.state_dict().items():
                if name not in self._files[component]:
                    raise InputError(f"{self._folder / component} lacks the tensor {name}.")
                stored = self._files[component][name].get_slice(name)
                shape = tuple(stored.get_shape())
                if shape != tuple(expected.shape):
                    raise InputError(
                        f"{self._folder / component}: {name} has shape {shape}; its "
                        f"configuration needs {tuple(expected.shape)}."
                    )
                if stored.get_dtype() not in _DTYPES:
                    raise InputError(
                        f"{self._folder / component}: {name} has numbers of type "
                        f"{stored.get_dtype()}, which do not fit here."
                    )

    def empty(self, component: str, name: str) -> Shaped[Tensor, "..."]:
        """Return a tensor of the right shape and dtype, without its numbers."""
        stored = self._files[component][name].get_slice(name)
        dtype = _DTYPES[stored.get_dtype()]
        return torch.empty(stored.get_shape(), dtype=dtype, device="meta")

    def load(self, component: str, name: str) -> Shaped[Tensor, "..."]:
        """Read one tensor."""
        return self._files[component][name].get_tensor(name)


def _weight_files(folder: Path, component: str) -> list[Path]:
    path = folder / component / weights_name(component)
    index_path = path.with_name(f"{path.name}.index.json")
    if path.is_file() or not index_path.is_file():
        return [path]
    return [path.with_name(name) for name in shard_names(index_path)]
