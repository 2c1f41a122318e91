"""Reading the weights of a diffusers folder one tensor at a time, in plain reads.

The safetensors library maps whole files into memory, which a system counts as memory in use; the
format is simple enough to read without.
"""

import io
import json
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.architecture import Architecture

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_LARGEST_HEADER = 10**8
"""Bytes; the limit of the format."""


def weights_name(component: str) -> str:
    """Return the name of a component's weight file, as diffusers and transformers have it."""
    is_transformers = component == "image_encoder"
    return "model.safetensors" if is_transformers else "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies in an open file."""

    handle: io.BufferedReader
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Bytes from the beginning of the file."""
    size_bytes: int


class FolderReader:
    """The open weight files of a pipeline folder; use it in a `with` statement."""

    def __init__(self, folder: Path) -> None:
        """Open the weight files, sharded or not.

        Raises:
            InputError: One is missing or damaged.
        """
        self._folder = folder
        self._entries: dict[str, dict[str, _Entry]] = {}
        with ExitStack() as opened:
            for component in ("unet", "vae", "image_encoder", "cc_projection"):
                entries = self._entries.setdefault(component, {})
                for path in self._files(component):
                    if not path.is_file():
                        raise InputError(
                            f"{path} is missing; is this a pipeline folder with safetensors?"
                        )
                    entries.update(_read_header(opened.enter_context(path.open("rb")), path))
            self._stack = opened.pop_all()

    def __enter__(self) -> "FolderReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def check(self, architecture: Architecture) -> None:
        """Refuse weights that are not those of this architecture, by name and shape.

        Raises:
            InputError: A tensor is missing or has a wrong shape.
        """
        for component, module in architecture.empty_components().items():
            for name, expected in module.state_dict().items():
                entry = self._entries[component].get(name)
                if entry is None:
                    raise InputError(f"{self._folder / component} lacks the tensor {name}.")
                if entry.shape != tuple(expected.shape):
                    raise InputError(
                        f"{self._folder / component}: {name} has shape {entry.shape}; its "
                        f"configuration asks for {tuple(expected.shape)}."
                    )

    def empty(self, component: str, name: str) -> Shaped[Tensor, "..."]:
        """Return a tensor of the right shape and dtype, without its numbers."""
        entry = self._entries[component][name]
        return torch.empty(entry.shape, dtype=entry.dtype, device="meta")

    def load(self, component: str, name: str) -> Shaped[Tensor, "..."]:
        """Read one tensor."""
        entry = self._entries[component][name]
        content = torch.empty(entry.size_bytes, dtype=torch.uint8)
        numbers: Any = content.numpy()
        entry.handle.seek(entry.start)
        if entry.handle.readinto(memoryview(numbers)) != entry.size_bytes:
            raise InputError(f"{entry.path} is damaged or truncated: {name} is cut short.")
        return content.view(entry.dtype).reshape(entry.shape)

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


def _read_header(handle: io.BufferedReader, path: Path) -> dict[str, _Entry]:
    """Return where each tensor lies (https://github.com/huggingface/safetensors, "Format")."""
    size_bytes = path.stat().st_size
    try:
        (header_size,) = struct.unpack("<Q", handle.read(8))
        if header_size > min(_LARGEST_HEADER, size_bytes):
            raise ValueError("its header is longer than the file")
        header = json.loads(handle.read(header_size))
        header.pop("__metadata__", None)
        return {
            name: _entry(handle, path, name, entry, 8 + header_size, size_bytes)
            for name, entry in header.items()
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged or truncated ({error}).") from error


def _entry(
    handle: io.BufferedReader, path: Path, name: str, entry: Any, base: int, file_size: int
) -> _Entry:
    if entry["dtype"] not in _DTYPES:
        raise InputError(f"{path}: {name} holds {entry['dtype']} numbers, which do not fit here.")
    dtype, shape = _DTYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"])
    first, end = (int(offset) for offset in entry["data_offsets"])
    expected = torch.Size(shape).numel() * dtype.itemsize
    if min((*shape, first), default=0) < 0 or end - first != expected or base + end > file_size:
        raise ValueError(f"{name} lies outside the file")
    return _Entry(handle, path, dtype, shape, base + first, expected)
