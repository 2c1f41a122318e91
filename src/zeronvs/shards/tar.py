"""Byte offsets of the members of a shard, from the headers of its tar file."""

import errno
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from zeronvs.shards.images import MAX_IMAGE_BYTES, ImageFormat
from zeronvs.shards.metadata import MAX_METADATA_BYTES

_MEMBER = re.compile(
    r"(?:.*/)?(?P<category>[^/]+)/(?P<scene>[^/]+)/(?P<frame>frame\d{1,9})"
    r"(?:(?P<depth>_depth)\.png|(?P<metadata>_metadata)\.json|\.(?P<image>png|jpg|jpeg|webp))",
    re.ASCII,
)
MAX_HEADER_BYTES = 2**20
"""Long names and extended headers are never larger."""
MAX_FRAMES = 100_000
"""A scene with more members than three times this is damage."""
_EXTENSIONS: dict[str, ImageFormat] = {"png": "png", "jpg": "jpg", "jpeg": "jpg", "webp": "webp"}


class ShardDamage(Exception):
    """A part of a shard that cannot be used and was skipped."""

    def __init__(self, shard: Path, where: str, reason: str) -> None:
        super().__init__(": ".join(part for part in (shard.name, where, reason) if part))
        self.shard = shard
        self.where = where
        """The scene or frame, or "" for the whole shard."""
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str, str]]:
        """Pickle with all fields."""
        return type(self), (self.shard, self.where, self.reason)


OnDamage = Callable[[ShardDamage], None]
"""Callback for damage; damaged parts are skipped."""


@dataclass(frozen=True)
class Member:
    """One file of a scene: its kind and the span of its bytes."""

    frame: str
    """E.g. "frame000012"."""
    kind: str
    """ "image", "depth" or "metadata"."""
    extension: ImageFormat
    """Format of an image."""
    offset: int
    """First byte in the tar."""
    size: int
    """Bytes."""


def shard_paths(source: Path) -> list[Path]:
    """Return the shards (*.tar) of a folder, sorted by name, or the one shard that is given."""
    return [source] if source.is_file() else sorted(source.glob("*.tar"))


def open_tar(path: Path) -> BinaryIO:
    """Open a tar for reading; a named pipe, which would be waited for, is an `OSError`."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not an ordinary file")
    return path.open("rb")


def scan_members(path: Path, on_damage: OnDamage) -> Iterator[tuple[str, list[Member]]]:
    """Yield the scenes of a tar as (scene id, members), reading headers only.

    Args:
        on_damage: Called for damage. A tar that ends before its end mark loses its last scene,
            which may be incomplete.

    Raises:
        OSError: The file cannot be read.
    """
    with open_tar(path) as raw:
        length = raw.seek(0, 2)
        raw.seek(0)
        scene_id, members = "", []
        scan = _Scan(path, raw, length, on_damage)
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
            limit = MAX_METADATA_BYTES if member.kind == "metadata" else MAX_IMAGE_BYTES
            if not 0 < size <= limit or len(members) >= 3 * MAX_FRAMES:
                on_damage(
                    ShardDamage(path, f"{this_id}/{member.frame}", f"{size} bytes of {name[-9:]}")
                )
                continue
            members.append(member)
        if members and not scan.cut_short:
            yield scene_id, members


def complete_frames(
    path: Path, scene_id: str, members: list[Member], on_damage: OnDamage
) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield name and members (by kind) of the frames of a scene that have image and metadata."""
    by_frame: dict[str, dict[str, Member]] = {}
    for member in members:
        by_frame.setdefault(member.frame, {})[member.kind] = member
    for name, parts in sorted(by_frame.items()):
        missing = [kind for kind in ("image", "metadata") if kind not in parts]
        if missing:
            on_damage(ShardDamage(path, f"{scene_id}/{name}", f"has no {missing[0]}"))
        else:
            yield name, parts


def read_member(raw: BinaryIO, member: Member) -> bytes:
    """Return the content of a member of an open tar."""
    raw.seek(member.offset)
    return raw.read(member.size)


class _HeaderReader:
    """File object for `tarfile` that bounds the memory a header can request."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.seek, self.tell = raw.seek, raw.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._raw.read(size)


class _Scan:
    """One pass over the headers of a tar."""

    def __init__(self, path: Path, raw: BinaryIO, length: int, on_damage: OnDamage) -> None:
        self._path, self._raw, self._length, self._on_damage = path, raw, length, on_damage
        self.cut_short = False

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, offset and size of the regular files; damage ends the iteration."""
        try:
            reader = cast(IO[bytes], _HeaderReader(self._raw))
            with tarfile.open(fileobj=reader, mode="r:") as tar:
                position = -1
                while (member := tar.next()) is not None:
                    if member.size < 0 or tar.offset <= position:
                        self._end(f"{member.name} has {member.size} bytes")
                        return
                    position = tar.offset
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
        self._on_damage(ShardDamage(self._path, "", reason))


def _member(match: re.Match[str], offset: int, size: int) -> Member:
    kind = "depth" if match["depth"] else "metadata" if match["metadata"] else "image"
    return Member(match["frame"], kind, _EXTENSIONS[match["image"] or "png"], offset, size)
