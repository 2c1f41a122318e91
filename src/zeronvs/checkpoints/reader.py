"""Reading a torch checkpoint of any size: memory-mapped, without running code that it names.

Only tensors and plain values are built. Every other class or function that the file names is
replaced by an inert stand-in, so that Lightning callbacks, optimiser states and configuration
objects are skipped.

Limits are checked on the opcodes of the pickle before anything is built: a few hundred bytes can
request gigabytes of memo, or a tuple that refers to itself so often that hashing it never ends.
`pickletools` lists opcodes without building objects; their documented effect on the stack is enough
to bound the size of each object.
"""

import pickle
import pickletools
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, _utils

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.file_kind import FileKind, file_kind

MAX_EXPANDED_NUMBERS = 2**26
"""Size of a tensor whose elements share memory (a stride of 0)."""
MAX_INFLATION = 20
"""Compressed members: bytes inflated from one byte of the file."""
_DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, pickle.UnpicklingError, EOFError),
    *(OSError, RuntimeError, NotImplementedError, ValueError, TypeError, LookupError),
    *(AttributeError, AssertionError, MemoryError, OverflowError, RecursionError),
)
"""Exceptions of zipfile, pickletools and torch on damaged or malicious files."""
_REBUILD: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _utils._rebuild_tensor,
    "_rebuild_tensor_v2": _utils._rebuild_tensor_v2,
    "_rebuild_tensor_v3": _utils._rebuild_tensor_v3,
    "_rebuild_parameter": lambda data, *_: data,
    "_rebuild_parameter_with_state": lambda data, *_: data,
    "_rebuild_from_type_v2": lambda rebuild, kind, args, state: rebuild(*args),
}
"""Constructors of tensors that a pickle may call; subclasses and attributes are dropped."""
MAX_INDEX_BYTES = 2**26
"""The index of the released checkpoint has about a megabyte."""
MAX_OPCODES = 2**22
"""Opcodes, and memo entries, of an index."""
MAX_DEPTH = 200
"""Nesting of objects in an index."""
MAX_EXPANDED = 2**24
"""Leaves of a tuple when everything it shares is written out."""
_ITEM_BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage", "UntypedStorage"), 1),
}
"""Bytes of an element, by the class of a storage."""


class _Inert:
    """Stand-in for any class or function that is not imported: accepts every call, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self

    def _ignore(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = update = _ignore


class _DataUnpickler(pickle.Unpickler):
    """Imports nothing that the pickle names ("Restricting Globals" in Python's documentation)."""

    def find_class(self, module: str, name: str) -> Any:
        """Return constructors of tensors and plain containers; an inert stand-in for the rest.

        torch resolves the types of storages itself, before this is called.
        """
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch._utils", "torch._tensor") and name in _REBUILD:
            rebuild = _REBUILD[name]
            return partial(rebuild)  # a copy: a pickle may set attributes of what it calls
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _Inert


class CheckpointReader:
    """An open checkpoint in torch's zip layout; use it in a `with` statement.

    Attributes:
        tensors: The tensors of its `state_dict`, or of the file itself where it is one, by name.
    """

    def __init__(self, path: Path) -> None:
        """Open a checkpoint and map its tensors.

        Args:
            path: File written by `torch.save` of torch 1.6 or later, or by Lightning.

        Raises:
            InputError: It is not such a file, is damaged or truncated, or is beyond the limits.
        """
        self._path = path
        if file_kind(path) is not FileKind.TORCH:
            raise InputError(f"{path.name} is a safetensors file, not a torch checkpoint.")
        if path.suffix == ".safetensors":  # torch.load goes by the name
            raise InputError(f"{path.name} is a torch checkpoint; rename it to {path.stem}.ckpt.")
        try:
            is_compressed = _check_archive(path)
            content = _load(path, mmap=not is_compressed)
        except InputError as error:
            raise InputError(f"{path.name} cannot be read: {error}.") from error
        except _DAMAGE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{path.name} is damaged or truncated ({reason}). Get the file again."
            ) from error
        self.tensors: Mapping[str, Tensor] = _state_dict(content, path)

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.tensors = {}

    def load(self, name: str) -> Shaped[Tensor, "..."]:
        """Return a copy of one tensor of `tensors`, with its own dtype.

        Raises:
            InputError: There is none of this name.
        """
        if name not in self.tensors:
            raise InputError(f"{self._path.name} has no tensor {name}.")
        return self.tensors[name].detach().clone(memory_format=torch.contiguous_format)


def check_content(path: Path) -> None:
    """Compare every record of a checkpoint with its checksum; reads the whole file.

    Raises:
        InputError: A record is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except _DAMAGE as error:
        raise InputError(f"{path.name} is damaged ({error}). Get the file again.") from error
    if damaged is not None:
        raise InputError(
            f"{path.name} is damaged: the numbers of {damaged} do not match their checksum. Get "
            "the file again."
        )


def _check_archive(path: Path) -> bool:
    """Check members and pickle of the archive; return whether members are compressed.

    Raises:
        InputError: It is no torch checkpoint, or is beyond the limits.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        indices = [name for name in names if name.endswith("/data.pkl")]
        if len(indices) != 1 or len(set(names)) != len(names):
            raise InputError("it is a zip file but not a torch checkpoint")
        methods = {member.compress_type for member in members}
        if any(member.flag_bits & 1 for member in members):
            raise InputError("it is encrypted")
        if not methods <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise InputError("it is compressed by a method that torch does not read")
        is_compressed = methods != {zipfile.ZIP_STORED}
        inflated = sum(member.file_size for member in members)
        if inflated > (MAX_INFLATION if is_compressed else 1) * path.stat().st_size + 2**20:
            raise InputError(f"its members claim {inflated} bytes, more than the file can hold")
        sizes = {member.filename: member.file_size for member in members}
        if sizes[indices[0]] > MAX_INDEX_BYTES:
            raise InputError(f"its index has {sizes[indices[0]]} bytes")
        prefix = indices[0].removesuffix("data.pkl")
        if f"{prefix}byteorder" in sizes and archive.read(f"{prefix}byteorder") != b"little":
            raise InputError("it was written on a big-endian machine")
        for key, size in storage_sizes(archive.read(indices[0])).items():
            if size > sizes.get(f"{prefix}data/{key}", -1):
                raise InputError(f"the numbers of record {key} are missing or cut short")
    return is_compressed


def _load(path: Path, *, mmap: bool) -> Any:
    """Let torch read the archive, with an unpickler that imports nothing.

    torch's own weights-only unpickler knows pickle protocol 2 only, and no stand-ins for lists.
    """
    safe_pickle = SimpleNamespace(Unpickler=_DataUnpickler, load=None, __name__="pickle")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(
            str(path), "cpu", pickle_module=safe_pickle, weights_only=False, mmap=mmap
        )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    items = content.items() if isinstance(content, dict) else ()
    tensors = {
        name: value
        for name, value in items
        if isinstance(name, str) and type(value) in (Tensor, torch.nn.Parameter)
    }
    if not tensors:
        raise InputError(f"{path.name} has no state_dict of tensors.")
    for name, value in tensors.items():
        stored = value.untyped_storage().nbytes() // value.element_size()
        if value.layout is not torch.strided or value.numel() > max(stored, MAX_EXPANDED_NUMBERS):
            raise InputError(f"{path.name}: the tensor {name} repeats few numbers without end.")
    return tensors


@dataclass(frozen=True)
class _Shape:
    """Bounds of an object on the stack."""

    leaves: int = 1
    depth: int = 0
    value: Any = None
    """Value of strings, numbers, names of globals, and tuples of these."""


_MARK = _Shape(leaves=0)


def storage_sizes(pickled: bytes) -> dict[str, int]:
    """Check a pickle and return the bytes of each storage that it refers to, by record name.

    Raises:
        InputError: It is no pickle of tensors, or beyond the limits.
    """
    if len(pickled) > MAX_INDEX_BYTES:
        raise InputError(f"its index has {len(pickled)} bytes; at most {MAX_INDEX_BYTES} are read")
    stack: list[_Shape] = []
    memo: dict[int, _Shape] = {}
    sizes: dict[str, int] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if count > MAX_OPCODES or (isinstance(argument, int) and abs(argument) >= 2**62):
            raise InputError("its index is larger than that of any model")
        name = opcode.name
        if name.endswith("PUT") or name == "MEMOIZE":
            index = len(memo) if argument is None else int(argument)
            if index > MAX_OPCODES:
                raise InputError(f"its index has a memo of {index} entries")
            memo[index] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(argument or 0)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        else:
            _apply(opcode, argument, stack)
        if name == "BINPERSID":
            key, size = _storage_of(stack.pop())
            sizes[key] = max(size, sizes.get(key, 0))
            stack.append(_Shape())
    return sizes


def _apply(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[_Shape]) -> None:
    """Pop the operands of an opcode from the stack and push bounds of its result."""
    before, after = opcode.stack_before, opcode.stack_after
    taken: list[_Shape] = []
    if pickletools.markobject in before:
        while (top := stack.pop()) is not _MARK:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    if opcode.name == "MARK":
        stack.append(_MARK)
    elif opcode.name == "BINPERSID":
        stack.append(taken[0])
    elif after:
        leaves = 1 + sum(shape.leaves for shape in taken)
        depth = 1 + max((shape.depth for shape in taken), default=-1)
        # A container that grows is as deep as its deepest item, however many are added.
        if opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):
            grown = taken[-1]
            depth = max([grown.depth, *(shape.depth + 1 for shape in taken[:-1])])
        if depth > MAX_DEPTH or leaves > MAX_EXPANDED:
            raise InputError("its index nests or repeats objects without end")
        value = argument
        if opcode.name == "STACK_GLOBAL":
            value = f"{taken[1].value} {taken[0].value}"
        if opcode.name.startswith("TUPLE"):
            value = tuple(shape.value for shape in reversed(taken)) if len(taken) <= 8 else None
        stack.append(_Shape(leaves, depth, value))


def _storage_of(identity: _Shape) -> tuple[str, int]:
    """Return record name and bytes of ("storage", type, key, location, number of elements)."""
    value = identity.value
    if not (isinstance(value, tuple) and len(value) == 5 and value[0] == "storage"):
        raise InputError("it refers to something other than tensors")
    _, kind, key, _, count = value
    item_bytes = _ITEM_BYTES.get(str(kind).split(" ")[-1])
    if item_bytes is None or not isinstance(key, str) or type(count) is not int or count < 0:
        raise InputError("it has a tensor whose kind of storage is not known")
    return key, count * item_bytes
