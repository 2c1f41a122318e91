"""Decoded pictures on disk, for shards that are read again and again.

A picture that was decoded once is read back at the speed of the disk: useful where the whole data
set fits, since a square of 256 pixels takes 196,608 bytes, a little more than its PNG. One sparse
file a shard holds a place for each frame; a sum beside each tells whether it is whole, so that
processes may share a cache and be killed at any time.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from zeronvs.shards.index import ShardIndex, shard_fingerprint

_EMPTY = np.uint64(0)


class PictureCache:
    """The decoded pictures of some shards at one size."""

    def __init__(
        self, folder: Path, shards: Sequence[ShardIndex], *, size_px: int, most_bytes: int
    ) -> None:
        """Decide which shards have a place; makes no file yet.

        Args:
            folder: Where; made when needed. Safe to delete when nobody uses it.
            shards: In an order that is the same in all processes.
            size_px: Side of the pictures.
            most_bytes: Shards are given a place in their order until this is spent.
        """
        self._folder, self._size_px = folder, size_px
        self._frames: dict[Path, int] = {}
        self._open: dict[Path, tuple[np.ndarray, np.ndarray] | None] = {}
        for shard in shards:
            count = len(shard.image_span)
            most_bytes -= count * (self._frame_bytes + 8)
            if most_bytes >= 0:
                self._frames[shard.path] = count

    @property
    def _frame_bytes(self) -> int:
        return 3 * self._size_px**2

    def read(self, shard: ShardIndex, frame: int, into: UInt8[np.ndarray, "s s 3"]) -> bool:
        """Fill `into` with a picture; False where it is not in the cache."""
        places = self._places(shard)
        if places is None or places[1][frame] == _EMPTY:
            return False
        into[...] = places[0][frame].reshape(into.shape)
        return bool(_sum(into) == places[1][frame])

    def write(self, shard: ShardIndex, frame: int, picture: UInt8[np.ndarray, "s s 3"]) -> None:
        """Keep a picture, where its shard has a place."""
        places = self._places(shard)
        if places is not None:
            places[0][frame] = picture.reshape(-1)
            places[1][frame] = _sum(picture)

    def _places(self, shard: ShardIndex) -> tuple[np.ndarray, np.ndarray] | None:
        if shard.path not in self._open:
            self._open[shard.path] = self._opened(shard)
        return self._open[shard.path]

    def _opened(self, shard: ShardIndex) -> tuple[np.ndarray, np.ndarray] | None:
        """Map the file of a shard, made at its full length first; None where it has no place."""
        count = self._frames.get(shard.path)
        if not count:
            return None
        mark = shard_fingerprint(shard.path).replace(" ", "-")
        path = self._folder / f"{shard.path.stem}-{mark}-{self._size_px}.pixels"
        length = count * (self._frame_bytes + 8)
        self._folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() < length:
                file.truncate(length)
        sums = np.memmap(path, np.uint64, "r+", 0, (count,))
        return np.memmap(path, np.uint8, "r+", 8 * count, (count, self._frame_bytes)), sums

    def __getstate__(self) -> dict[str, object]:
        """Travel to a worker without open files."""
        return {**self.__dict__, "_open": {}}


def _sum(picture: UInt8[np.ndarray, "s s 3"]) -> np.uint64:
    """Return a sum of all bytes' words that is never `_EMPTY`."""
    flat = picture.reshape(-1)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    total = int(words.sum(dtype=np.uint64)) + int(flat[words.size * 8 :].sum())
    return np.uint64(total % (2**64 - 1) + 1)
