"""Reading a torch pickle without ever running code that it names.

The rule: nothing that a pickle names is imported. Functions that rebuild tensors become ours;
`OrderedDict` is itself; every other class or function becomes an inert stand-in that swallows its
arguments and state, so that Lightning callbacks, optimiser states or omegaconf objects are read
past. A name that has no business in a checkpoint (os.system, builtins.eval, ...), or an unknown
function that the pickle wants *called*, is refused loudly, although it would be harmless here.
"""

import io
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.pickle_names import is_dangerous, may_be_called

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class StoredStorage:
    """A block of numbers in the file."""

    key: str
    """Name of its record."""
    dtype: torch.dtype | None
    """None where only the tensors know."""
    size: int
    """Number of elements (of bytes where the dtype is None)."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the file, not read yet."""

    storage: StoredStorage
    dtype: torch.dtype
    offset: int
    """Elements before the first one."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def byte_range(self) -> tuple[int, int]:
        """Return where the tensor's bytes start and end in its storage.

        Raises:
            InputError: It does not lie inside its storage.
        """
        numbers = (self.offset, self.storage.size, *self.shape, *self.stride)
        regular = all(type(number) is int and number >= 0 for number in numbers)
        if not regular or len(self.shape) != len(self.stride):
            raise InputError("the checkpoint has a tensor of an impossible shape.")
        extent = 0
        if 0 not in self.shape:
            steps = zip(self.shape, self.stride, strict=True)
            extent = 1 + sum((size - 1) * stride for size, stride in steps)
        item = self.dtype.itemsize
        start, end = self.offset * item, (self.offset + extent) * item
        if end > self.storage.size * (1 if self.storage.dtype is None else item):
            raise InputError("the checkpoint has a tensor that lies outside its storage.")
        return start, end


def read_pickle(content: bytes, name: str) -> Any:
    """Return what a torch pickle describes: plain values, dicts, and `StoredTensor`s.

    Args:
        content: The pickle.
        name: What to call the file in messages.

    Raises:
        InputError: It is damaged, or names what has no business in a checkpoint.
    """
    try:
        return _Reader(io.BytesIO(content), name).load()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} is damaged: its index cannot be read ({error}).") from error


class _Inert:
    """Stand-in for an object of an unknown class: takes everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignore the item."""

    extend = add = update = append

    def __hash__(self) -> int:
        return id(self)


class _Function:
    """One of our functions in the place of torch's; has no attributes that a pickle could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise InputError("the checkpoint tries to change the reader; it is not safe to use.")


class _Reader(pickle.Unpickler):
    def __init__(self, handle: io.BytesIO, name: str) -> None:
        super().__init__(handle)
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global; never imports anything."""
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[module, name]
        module = IMPORT_MAPPING.get(module, module)
        if is_dangerous(module, name):
            raise self._refusal(module, name)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in {"torch", "torch.storage"} and name in _STORAGE_DTYPES:
            return _Function(lambda: _STORAGE_DTYPES[name])
        if name == "UntypedStorage" and module in {"torch", "torch.storage"}:
            return _Function(lambda: None)
        if module in {"torch._utils", "torch._tensor"} and name in _REBUILD:
            return _Function(_REBUILD[name])
        return self._stand_in(module, name)

    def persistent_load(self, identity: Any) -> StoredStorage:
        """Return the storage that a record holds: ("storage", type, key, place, size)."""
        kind, storage_type, key, _, size = identity
        if kind != "storage" or not isinstance(storage_type, _Function):
            raise InputError(f"{self._name} holds a kind of data that is not known.")
        return StoredStorage(str(key), storage_type(), int(size))

    def _stand_in(self, module: str, name: str) -> type:
        """Return a class in the place of an unknown class or function."""
        called = None if may_be_called(module, name) else self._refusal(module, name)

        class StandIn(_Inert):
            def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
                if called is not None:
                    raise called
                return super().__new__(cls)

        StandIn.__name__ = StandIn.__qualname__ = name.split(".")[-1]
        return StandIn

    def _refusal(self, module: str, name: str) -> InputError:
        return InputError(
            f"{self._name} is not safe: it carries code, {module}.{name}, which no checkpoint "
            "needs. Nothing in it was run. Get the file from a source you trust."
        )


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> StoredTensor:
    """Stand for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    return _checked_tensor(storage, storage.dtype, offset, shape, stride)


def _tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    *rest: Any,
) -> StoredTensor:
    """Stand for torch._utils._rebuild_tensor_v3, which brings its dtype."""
    known = getattr(torch, getattr(dtype, "__name__", ""), None)
    return _checked_tensor(storage, known, offset, shape, stride)


def _checked_tensor(storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    if not isinstance(storage, StoredStorage) or not isinstance(dtype, torch.dtype):
        raise InputError("the checkpoint has a tensor whose kind of storage is not known.")
    tensor = StoredTensor(storage, dtype, offset, tuple(shape), tuple(stride))
    tensor.byte_range()
    return tensor


def _parameter(data: Any, *rest: Any) -> Any:
    """Stand for torch._utils._rebuild_parameter."""
    return data


def _from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """Stand for torch._tensor._rebuild_from_type_v2."""
    return function(*arguments) if isinstance(function, _Function) else _Inert()


_REBUILD: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
    "_rebuild_from_type_v2": _from_type,
}
