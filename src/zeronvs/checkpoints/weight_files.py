"""The files that hold one `state_dict`: a checkpoint, safetensors, or a state of accelerate."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent
from zeronvs.checkpoints.file_kind import FileKind, file_kind
from zeronvs.checkpoints.reader import CheckpointReader, check_content
from zeronvs.diffusion.loading import shard_names

_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}
_STATE_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""Weights in a folder of accelerate's `save_state`."""
_CHUNK_BYTES = 2**24
_MIB = 2**20


class SafetensorsReader:
    """Open safetensors files of one model; use it in a `with` statement.

    Attributes:
        tensors: Its tensors by name, without their numbers (on the meta device).
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files.

        Raises:
            InputError: One is missing or damaged.
        """
        self._files: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        with ExitStack() as opened:
            for path in paths:
                if not path.is_file():
                    raise InputError(f"{path} is missing; get the whole folder.")
                try:
                    file: Any = opened.enter_context(safe_open(path, framework="pt"))
                except (SafetensorError, OSError) as error:
                    raise InputError(f"{path} is damaged or truncated ({error}).") from error
                for name in file.keys():
                    stored = file.get_slice(name)
                    dtype = _DTYPES.get(stored.get_dtype())
                    if dtype is None:
                        raise InputError(
                            f"{path}: {name} has numbers of type {stored.get_dtype()}, which do "
                            "not fit here."
                        )
                    tensors[name] = torch.empty(stored.get_shape(), dtype=dtype, device="meta")
                    self._files[name] = file
            self._stack = opened.pop_all()
        self.tensors: Mapping[str, Tensor] = tensors

    def __enter__(self) -> "SafetensorsReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def load(self, name: str) -> Shaped[Tensor, "..."]:
        """Read one tensor."""
        return self._files[name].get_tensor(name)


Reader = CheckpointReader | SafetensorsReader


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """Where one `state_dict` lies."""

    paths: tuple[Path, ...]
    """One file, or the shards of one."""
    kind: FileKind
    is_accelerate: bool
    """Whether `save_state` of accelerate wrote it."""
    config_path: Path | None
    """The YAML file that lies beside."""

    def reader(self) -> Reader:
        """Open the files for reading tensor by tensor.

        Raises:
            InputError: They are damaged.
        """
        if self.kind is FileKind.SAFETENSORS:
            return SafetensorsReader(self.paths)
        return CheckpointReader(self.paths[0])

    def check_content(self) -> None:
        """Compare the content with its checksums, where the format has some.

        Raises:
            InputError: It is damaged.
        """
        if self.kind is FileKind.TORCH:
            check_content(self.paths[0])

    @property
    def layout(self) -> str:
        """The format in words."""
        return f"state of accelerate, {self.kind.value}" if self.is_accelerate else self.kind.value


def find_weights(path: Path) -> WeightFiles:
    """Find the weights that a path names: a file, or a folder that accelerate saved.

    Raises:
        InputError: There are none.
    """
    if path.is_dir():
        names = [name for name in _STATE_FILES if (path / name).is_file()]
        if not names:
            raise InputError(
                f"{path} has no {' or '.join(_STATE_FILES)} of a saved state, and no "
                "model_index.json of a pipeline; give the file of the weights."
            )
        path = path / names[0]
    paths = (path,)
    if path.name.endswith(".index.json"):
        paths = tuple(path.with_name(name) for name in shard_names(path))
    is_accelerate = any(path.parent.glob("random_states_*.pkl"))
    return WeightFiles(
        paths=paths,
        kind=file_kind(paths[0]),
        is_accelerate=is_accelerate,
        config_path=_config_beside(path, is_accelerate=is_accelerate),
    )


def _config_beside(path: Path, *, is_accelerate: bool) -> Path | None:
    stem = path.with_suffix("")
    places = [stem.with_suffix(".yaml"), stem.with_name(f"{stem.name}_config.yaml")]
    if is_accelerate:  # configs/NAME/config.yaml, configs/NAME/iter_N/model.safetensors
        folder = path.absolute().parent
        places += [folder / "config.yaml", folder.parent / "config.yaml"]
    return next((place for place in places if place.is_file()), None)


def digest(paths: Iterable[Path], progress: Progress) -> str:
    """Return the sha256 of a file; of several, that of their list as `sha256sum` prints it."""
    paths = list(paths)
    total = max(sum(path.stat().st_size for path in paths) // _MIB, 1)
    lines, done = [], 0
    for path in paths:
        state = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                state.update(chunk)
                done += len(chunk)
                progress(ProgressEvent("hash (MiB)", min(done // _MIB, total), total))
        lines.append(f"{state.hexdigest()}  {path.name}\n")
    if len(lines) == 1:
        return lines[0].split()[0]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
