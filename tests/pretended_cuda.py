"""A CPU that pretends to be a GPU: code that mixes devices fails here as it would on CUDA.

Storages that were moved "to cuda" are marked and `Tensor.device` returns accordingly, while all
values stay in the memory of the CPU. An operation that mixes marked and unmarked tensors raises
what CUDA would raise, as does NumPy on a marked tensor, or a CPU generator that fills one.

Where the host would wait for the GPU (values that are read, copies that block, results whose size
is not known before) is counted by line of the package in `PretendedCuda.waits`.
"""

import traceback
from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from zeronvs.scene import hash_grid
from zeronvs.scene.grid_kernels import PlainKernels

CUDA = torch.device("cuda", 0)
_DEVICE = torch.Tensor.device.__get__
_IS_CUDA = torch.Tensor.is_cuda.__get__
_COPIES = ("aten.copy_", "aten._to_copy", "aten.set_", "aten.detach", "aten.index", "aten._index")
"""Operations that may cross devices: copies, and indexing by a CPU tensor."""
_UNMARKED = "_local_scalar_dense"
_READS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique")
_READS += ("aten.equal", "aten._linalg_check_errors", "aten._linalg_solve")
"""Operations after which the host has to wait for the GPU."""


def _place() -> str:
    """Return the innermost line of the package that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if "/zeronvs/" in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.split('/zeronvs/')[-1]}, {frame.name}"
    return "elsewhere"


def is_marked(tensor: object) -> bool:
    """Return whether a tensor pretends to be on CUDA."""
    if not isinstance(tensor, Tensor):
        return False
    return bool(getattr(tensor.untyped_storage(), "pretends_cuda", False))


def mark(tensor: Tensor) -> Tensor:
    """Let the tensor, and all views of its storage, pretend to be on CUDA."""
    tensor.untyped_storage().pretends_cuda = True  # pyright: ignore
    return tensor


def _copied(tensor: Tensor, *, marked: bool) -> Tensor:
    """Return the tensor in a storage of its own, still part of the autograd graph."""
    copy = tensor.clone() if tensor.requires_grad else tensor.detach().clone()
    copy.untyped_storage().pretends_cuda = marked  # pyright: ignore
    return copy


class _Dispatch(TorchDispatchMode):
    def __init__(self, function_mode: "_Function") -> None:
        super().__init__()
        self._function_mode = function_mode
        self.waits = function_mode.waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        name, marks = str(func), [is_marked(tensor) for tensor in tensors]
        if any(marks) and not all(marks) and not name.startswith(_COPIES):
            # Numbers wrapped as tensors of no dimension may stay on the CPU.
            strangers = [
                tuple(tensor.shape)
                for tensor, marked in zip(tensors, marks, strict=True)
                if not marked and tensor.dim() > 0 and tensor.numel() > 0
            ]
            if strangers:
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two "
                    f"devices, cpu and cuda:0! ({name}, on the cpu: {strangers})"
                )
        generators = [leaf for leaf in leaves if isinstance(leaf, torch.Generator)]
        if any(marks) and any(generator.device.type == "cpu" for generator in generators):
            raise RuntimeError(
                f"Expected a 'cuda' device type for generator but found 'cpu' ({name})"
            )
        if any(marks) and name.removeprefix("aten.") in self._function_mode.gpu.lacking:
            raise NotImplementedError(f"{name} is not implemented for MPS ({_place()})")
        if any(marks) and name.startswith(_READS):
            self.waits[_place(), name.split(".")[1]] += 1
        if any(marks) and name.startswith("aten.index"):
            indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.waits[_place(), "boolean index"] += 1
            if any(not is_marked(index) for index in indices):
                self.waits[_place(), "index on the CPU"] += 1
        result = func(*args, **kwargs)
        # What a composite operation makes for itself lies where its arguments do.
        new = not tensors or "lift_fresh" in name
        inherits = new and self._function_mode.inside_marked
        if (any(marks) or inherits) and _UNMARKED not in name:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._function_mode.check_dtype(leaf)
                    mark(leaf)
        return result


class _Function(TorchFunctionMode):
    def __init__(self, gpu: "PretendedGpu") -> None:
        super().__init__()
        self.gpu, self.inside_marked = gpu, False
        self.waits: Counter[tuple[str, str]] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func is _DEVICE or func == _DEVICE:
            return self.gpu.device if is_marked(first) else func(*args, **kwargs)
        if func == _IS_CUDA:
            return is_marked(first) and self.gpu.device.type == "cuda"
        if func in (Tensor.numpy, Tensor.__array__) and is_marked(first):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func in (Tensor.tolist, Tensor.__float__, Tensor.__int__) and is_marked(first):
            self.waits[_place(), "values read"] += 1
        if func is Tensor.cpu:
            return self._move(first, torch.device("cpu"))
        if func is Tensor.cuda:
            return self._move(first, self.gpu.device)
        if func is Tensor.to:
            return self._to(first, *args[1:], **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "meta":
            return self._factory(func, args, kwargs)
        outer = self.inside_marked
        self.inside_marked = any(is_marked(leaf) for leaf in tree_leaves((args, kwargs)))
        try:
            return func(*args, **kwargs)
        finally:
            self.inside_marked = outer

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        target, rest = kwargs.pop("device", None), []
        blocks = not kwargs.pop("non_blocking", False)
        other = kwargs.pop("other", None)
        for value in args:
            if isinstance(value, Tensor):
                other = value
            elif isinstance(value, torch.device | str):
                target = value
            else:
                rest.append(value)
        if other is not None:
            target = self.gpu.device if is_marked(other) else "cpu"
            rest = [other.dtype, *rest]
        if target is not None and torch.device(target).type == "meta":
            return tensor.to(target, *rest, **kwargs)
        # Positional flags (non_blocking, copy) follow a device, and change no value.
        rest = [value for value in rest if value is not None and not isinstance(value, bool)]
        result = tensor
        if rest or kwargs:
            outer, self.inside_marked = self.inside_marked, is_marked(tensor)
            try:
                result = tensor.to(*rest, **kwargs) if _changes(rest, kwargs) else tensor
            finally:
                self.inside_marked = outer
        return result if target is None else self._move(result, torch.device(target), blocks)

    def _factory(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        wants_cuda = torch.device(kwargs["device"]).type == self.gpu.device.type
        kwargs["device"] = torch.device("cpu")
        generator = kwargs.get("generator")
        if wants_cuda and generator is not None and generator.device.type == "cpu":
            raise RuntimeError(f"Expected a 'cuda' generator but found 'cpu' ({func.__name__})")
        if wants_cuda and func is torch.Generator:
            return func(*args, **kwargs)
        outer, self.inside_marked = self.inside_marked, wants_cuda
        try:
            result = func(*args, **kwargs)
        finally:
            self.inside_marked = outer
        return self._move(result, self.gpu.device if wants_cuda else torch.device("cpu"))

    def _move(self, tensor: Any, device: torch.device, blocks: bool = True) -> Any:
        if not isinstance(tensor, Tensor) or is_marked(tensor) == (device.type != "cpu"):
            return tensor
        if device.type != "cpu":
            self.check_dtype(tensor)
        if blocks or device.type == "cpu":
            self.waits[_place(), f"copy to {device.type}"] += 1
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return _copied(tensor, marked=device.type != "cpu")

    def check_dtype(self, tensor: Tensor) -> None:
        """Refuse float64 where the device has none."""
        if not self.gpu.has_float64 and tensor.dtype == torch.float64:
            raise TypeError(f"{self.gpu.device.type} has no float64, use float32 ({_place()})")


def _changes(rest: list[Any], kwargs: dict[str, Any]) -> bool:
    return bool(rest) or bool(kwargs)


class PretendedGpu:
    """Context in which a kind of GPU is a device that this machine seems to have."""

    def __init__(
        self,
        device: torch.device,
        *,
        lacking: frozenset[str] = frozenset(),
        has_float64: bool = True,
    ) -> None:
        """Pretend.

        Args:
            lacking: Operations that the device does not have, "name.overload".
        """
        self.device, self.lacking, self.has_float64 = device, lacking, has_float64

    def __enter__(self) -> "PretendedGpu":
        # Fused kernels would reach for a real GPU with addresses of the CPU.
        self._kernels = patch.object(hash_grid, "kernels_for", lambda device: PlainKernels())
        self._kernels.start()
        self._function = _Function(self)
        self.waits = self._function.waits
        self._dispatch = _Dispatch(self._function)
        self._dispatch.__enter__()
        self._function.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._function.__exit__(*error)
        self._dispatch.__exit__(*error)
        self._kernels.stop()


class PretendedCuda(PretendedGpu):
    """Context in which "cuda" is a device that this machine seems to have."""

    def __init__(self) -> None:
        super().__init__(CUDA)
