"""Reading a torch checkpoint of any size: its index at once and safely, its tensors one by one."""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.pickle_reader import StoredTensor, read_pickle

_LARGEST_INDEX = 2**29
"""Bytes; the index of the released file has about a megabyte."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class CheckpointReader:
    """An open checkpoint in torch's zip layout; use it in a `with` statement.

    Attributes:
        content: What the file describes, with `StoredTensor`s in the place of tensors.
        tensors: The tensors of its `state_dict`, or of the file itself where it is one, by name.
    """

    def __init__(self, path: Path) -> None:
        """Open a checkpoint and read its index.

        Args:
            path: File written by `torch.save` of torch 1.6 or later, or by Lightning.

        Raises:
            InputError: It is not such a file, is damaged or truncated, or carries code.
        """
        self._path = path
        self._file = self._open()
        try:
            self._archive = zipfile.ZipFile(self._file)
            self._records = {info.filename: info for info in self._archive.infolist()}
            self._prefix = self._find_prefix()
            self.content: Any = read_pickle(self._read_index(), path.name)
            self.tensors: Mapping[str, StoredTensor] = self._find_tensors()
        except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError) as error:
            self._file.close()
            raise InputError(
                f"{path.name} is damaged or truncated ({error}). Get the file again."
            ) from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._archive.close()
        self._file.close()

    def load(self, name: str) -> Shaped[Tensor, "..."]:
        """Read one tensor of `tensors` from the file, with its own dtype.

        Raises:
            InputError: There is none of this name, or its record is missing or cut short.
        """
        if name not in self.tensors:
            raise InputError(f"{self._path.name} has no tensor {name}.")
        stored = self.tensors[name]
        start, end = stored.byte_range()
        content = torch.empty(end - start, dtype=torch.uint8)
        if end > start:
            self._read_bytes(self._record_of(stored, name), start, content)
        flat = content.view(stored.dtype)
        return torch.as_strided(flat, stored.shape, stored.stride).contiguous()

    def _open(self) -> io.BufferedReader:
        try:
            handle = self._path.open("rb")
        except OSError as error:
            raise InputError(f"{self._path} cannot be read ({error.strerror}).") from error
        start = handle.read(512)
        if start[:2] == b"PK":
            return handle
        handle.close()
        if not start:
            raise InputError(f"{self._path.name} is empty.")
        if start[:1] == b"\x80" or start[257:262] == b"ustar":
            raise InputError(
                f"{self._path.name} has the layout of torch before 1.6, which is not read here. "
                "Save it again: torch.save(torch.load(path, weights_only=True), new_path)"
            )
        raise InputError(f"{self._path.name} is not a torch checkpoint.")

    def _find_prefix(self) -> str:
        """Return the folder inside the archive, e.g. "archive/"."""
        found = [name for name in self._records if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise InputError(f"{self._path.name} is a zip file but not a torch checkpoint.")
        prefix = found[0].removesuffix("data.pkl")
        order = self._records.get(f"{prefix}byteorder")
        if order is not None and self._archive.read(order) != b"little":
            raise InputError(f"{self._path.name} was written on a big-endian machine.")
        return prefix

    def _read_index(self) -> bytes:
        info = self._records[f"{self._prefix}data.pkl"]
        if info.file_size > _LARGEST_INDEX:
            raise InputError(f"{self._path.name} has an index of {info.file_size} bytes; refused.")
        return self._archive.read(info)

    def _find_tensors(self) -> Mapping[str, StoredTensor]:
        content = self.content
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if isinstance(content, dict):
            tensors = {
                name: value
                for name, value in content.items()
                if isinstance(name, str) and isinstance(value, StoredTensor)
            }
            if tensors:
                return tensors
        raise InputError(f"{self._path.name} holds no state_dict of tensors.")

    def _record_of(self, stored: StoredTensor, name: str) -> zipfile.ZipInfo:
        info = self._records.get(f"{self._prefix}data/{stored.storage.key}")
        if info is None or info.file_size < stored.byte_range()[1]:
            raise InputError(
                f"{self._path.name} is damaged or truncated: the numbers of {name} are missing."
            )
        return info

    def _read_bytes(self, info: zipfile.ZipInfo, start: int, content: Tensor) -> None:
        """Fill `content` with the bytes of a record from `start` on."""
        numbers: Any = content.numpy()
        buffer = memoryview(numbers)
        if info.compress_type != zipfile.ZIP_STORED:  # somebody packed the file again
            with self._archive.open(info) as record:
                record.seek(start)
                buffer[:] = record.read(len(buffer))
            return
        self._file.seek(info.header_offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(
            self._file.read(_LOCAL_HEADER.size)
        )
        first = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        self._file.seek(first + start)
        if signature != b"PK\x03\x04" or self._file.readinto(buffer) != len(buffer):
            raise InputError(f"{self._path.name} is damaged or truncated. Get the file again.")
