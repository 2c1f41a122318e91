"""Writing large tensor files one tensor at a time: safetensors, and torch's zip checkpoint."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import _utils as torch_utils

_SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}
_STORAGE_TYPES = {
    torch.float64: "DoubleStorage",
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.int64: "LongStorage",
    torch.int32: "IntStorage",
}
_LARGE_RECORD = 2**30


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: known in size now, made when its turn comes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def size_bytes(self) -> int:
        """Bytes the tensor takes in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def content(self) -> memoryview:
        """Make the tensor and return its bytes."""
        tensor = self.make().to(self.dtype).contiguous()
        if tuple(tensor.shape) != self.shape:
            raise ValueError(f"planned shape {self.shape}, made {tuple(tensor.shape)}")
        numbers: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        return memoryview(numbers)


def write_safetensors(path: Path, tensors: Mapping[str, PlannedTensor]) -> None:
    """Write tensors as one safetensors file, holding one of them in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.size_bytes],
        }
        offset += tensor.size_bytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(encoded)))
        handle.write(encoded)
        for tensor in tensors.values():
            handle.write(tensor.content())


def write_torch_checkpoint(
    path: Path,
    tensors: Mapping[str, PlannedTensor],
    copies: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> None:
    """Write a checkpoint that `torch.load` reads, holding one tensor in memory at a time.

    Args:
        copies: More names in the `state_dict`, each with the name of the tensor it shares.
        metadata: Further entries of the checkpoint, plain values.
    """
    keys = {name: str(index) for index, name in enumerate(tensors)}
    state: OrderedDict[str, _PickledTensor] = OrderedDict()
    for name in (*tensors, *copies):
        source = copies.get(name, name)
        state[name] = _PickledTensor(keys[source], tensors[source])
    index = io.BytesIO()
    _Pickler(index, protocol=2).dump({**metadata, "state_dict": state})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr("archive/data.pkl", index.getvalue())
        archive.writestr("archive/byteorder", "little")
        for name, tensor in tensors.items():
            info = zipfile.ZipInfo(f"archive/data/{keys[name]}")
            large = tensor.size_bytes > _LARGE_RECORD
            with archive.open(info, "w", force_zip64=large) as record:
                record.write(tensor.content())
        archive.writestr("archive/version", "3\n")


@dataclass(frozen=True)
class _PickledStorage:
    """Pickled as the record that holds the numbers."""

    key: str
    tensor: PlannedTensor


@dataclass(frozen=True)
class _PickledTensor:
    """Pickled as torch pickles a contiguous tensor."""

    key: str
    tensor: PlannedTensor

    def __reduce__(self) -> tuple[Any, ...]:
        shape = self.tensor.shape
        stride = torch.empty(shape, device="meta").stride()
        storage = _PickledStorage(self.key, self.tensor)
        hooks: OrderedDict[Any, Any] = OrderedDict()
        rebuild: Any = torch_utils._rebuild_tensor_v2
        return rebuild, (storage, 0, shape, tuple(stride), False, hooks)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        """Return how torch's reader finds the numbers of a storage."""
        if not isinstance(obj, _PickledStorage):
            return None
        kind = getattr(torch, _STORAGE_TYPES[obj.tensor.dtype])
        numel = torch.Size(obj.tensor.shape).numel()
        return ("storage", kind, obj.key, "cpu", numel)
