"""Where the members of a shard lie in its tar file, found without reading their content."""

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zeronvs.shards.images import MAX_PICTURE_BYTES, ImageFormat
from zeronvs.shards.metadata import MAX_METADATA_BYTES

_MEMBER = re.compile(
    r"(?:.*/)?(?P<category>[^/]+)/(?P<scene>[^/]+)/(?P<frame>frame\d{1,9})"
    r"(?:(?P<depth>_depth)\.png|(?P<metadata>_metadata)\.json|\.(?P<image>png|jpg|jpeg|webp))",
    re.ASCII,
)
MAX_FRAMES = 100_000
"""A scene with more members than three times this is damage."""


class ShardDamage(Exception):
    """Something in a shard that cannot be used and was left out."""

    def __init__(self, shard: Path, where: str, reason: str) -> None:
        super().__init__(f"{shard.name}: {where}: {reason}")
        self.shard = shard
        self.where = where
        """The scene or frame, or "" for the whole shard."""
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str, str]]:
        """Travel between processes whole."""
        return type(self), (self.shard, self.where, self.reason)


@dataclass(frozen=True)
class Member:
    """One file of a scene: what it is and where its bytes lie."""

    frame: str
    """E.g. "frame000012"."""
    kind: str
    """ "image", "depth" or "metadata"."""
    extension: ImageFormat
    """How a picture is stored."""
    offset: int
    """First byte in the tar."""
    size: int
    """Bytes."""


def scan_members(
    path: Path, tell: Callable[[ShardDamage], None]
) -> Iterator[tuple[str, list[Member]]]:
    """Yield the scenes of a tar as (scene id, members), reading headers only.

    Args:
        path: A tar file, not compressed.
        tell: Is told of damage. A tar that ends before its end mark loses its last scene, of which
            nobody knows whether it is whole.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as raw:
        length = raw.seek(0, 2)
        raw.seek(0)
        scene_id, members = "", []
        scan = _Scan(path, raw, length, tell)
        for name, offset, size in scan.files():
            match = _MEMBER.fullmatch(name)
            if match is None:
                continue
            this_id = f"{match['category']}/{match['scene']}"
            if this_id != scene_id:
                if members:
                    yield scene_id, members
                scene_id, members = this_id, []
            member = _member(match, offset, size)
            most = MAX_METADATA_BYTES if member.kind == "metadata" else MAX_PICTURE_BYTES
            if not 0 < size <= most or len(members) >= 3 * MAX_FRAMES:
                tell(ShardDamage(path, f"{this_id}/{member.frame}", f"{size} bytes of {name[-9:]}"))
                continue
            members.append(member)
        if members and not scan.cut_short:
            yield scene_id, members


class _Scan:
    """One pass over the headers of a tar."""

    def __init__(
        self, path: Path, raw: BinaryIO, length: int, tell: Callable[[ShardDamage], None]
    ) -> None:
        self._path, self._raw, self._length, self._tell = path, raw, length, tell
        self.cut_short = False

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, offset and size of the regular files; damage ends the iteration."""
        try:
            with tarfile.open(fileobj=self._raw, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    # tarfile remembers every member; memory of one scene is enough.
                    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                    if not member.isreg() or member.issparse():
                        continue
                    if member.offset_data + member.size > self._length:
                        self._end(member.name)
                        return
                    yield member.name, member.offset_data, member.size
                end = tar.offset
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            self._end(str(error))
            return
        self._raw.seek(end)
        block = self._raw.read(tarfile.BLOCKSIZE)
        if block != tarfile.NUL * tarfile.BLOCKSIZE:
            self._end("no end mark")

    def _end(self, why: str) -> None:
        self.cut_short = True
        reason = f"the tar is truncated or damaged ({why[:80]}); its last scene is left out"
        self._tell(ShardDamage(self._path, "", reason))


_EXTENSIONS: dict[str, ImageFormat] = {"png": "png", "jpg": "jpg", "jpeg": "jpg", "webp": "webp"}


def _member(match: re.Match[str], offset: int, size: int) -> Member:
    kind = "depth" if match["depth"] else "metadata" if match["metadata"] else "image"
    return Member(match["frame"], kind, _EXTENSIONS[match["image"] or "png"], offset, size)
