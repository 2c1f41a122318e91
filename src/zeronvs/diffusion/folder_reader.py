"""Reading the weights of a diffusers folder one tensor at a time."""

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.diffusion.architecture import Architecture

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
        self._stack = ExitStack()
        self._homes: dict[str, dict[str, Any]] = {}
        with ExitStack() as opened:
            for component in ("unet", "vae", "image_encoder", "cc_projection"):
                home: dict[str, Any] = {}
                for path in self._files(component):
                    handle = opened.enter_context(_open(path))
                    home.update(dict.fromkeys(handle.keys(), handle))
                self._homes[component] = home
            self._stack = opened.pop_all()

    def __enter__(self) -> "FolderReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._homes.clear()
        self._stack.close()

    def check(self, architecture: Architecture) -> None:
        """Refuse weights that are not those of this architecture, by name and shape.

        Raises:
            InputError: A tensor is missing or has a wrong shape.
        """
        for component, module in architecture.empty_components().items():
            for name, expected in module.state_dict().items():
                home = self._homes[component].get(name)
                if home is None:
                    raise InputError(f"{self._folder / component} lacks the tensor {name}.")
                seen = tuple(home.get_slice(name).get_shape())
                if seen != tuple(expected.shape):
                    raise InputError(
                        f"{self._folder / component}: {name} has shape {seen}; its configuration "
                        f"asks for {tuple(expected.shape)}."
                    )

    def empty(self, component: str, name: str) -> Shaped[Tensor, "..."]:
        """Return a tensor of the right shape and dtype, without its numbers."""
        part = self._homes[component][name].get_slice(name)
        dtype = _DTYPES.get(part.get_dtype())
        if dtype is None:
            raise InputError(
                f"{self._folder / component}: {name} holds {part.get_dtype()} numbers."
            )
        return torch.empty(part.get_shape(), dtype=dtype, device="meta")

    def load(self, component: str, name: str) -> Shaped[Tensor, "..."]:
        """Read one tensor."""
        return self._homes[component][name].get_tensor(name)

    def _files(self, component: str) -> list[Path]:
        path = self._folder / component / weights_name(component)
        index_path = path.with_name(f"{path.name}.index.json")
        if path.is_file() or not index_path.is_file():
            return [path]
        try:
            names = set(json.loads(index_path.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{index_path} cannot be read ({error}).") from error
        return [path.with_name(Path(name).name) for name in sorted(names)]


def _open(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} is missing; is this a pipeline folder with safetensors weights?")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or truncated ({error}).") from error
