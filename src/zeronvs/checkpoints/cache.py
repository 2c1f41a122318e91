"""The user's cache of weights by name: fetched or imported once, found again without a network.

ROOT/models/NAME/pipeline/      the weights as a diffusers folder
ROOT/models/NAME/source.json    what they were made from
ROOT/downloads/NAME/            files that are on their way
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json

SOURCE_NAME = "source.json"
PIPELINE_NAME = "pipeline"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
RESERVED = ("builtin", "none", "scratch")
"""Names of models that are no files."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What weights in the cache were made from."""

    file: str
    """Name of the file or folder."""
    size_bytes: int
    sha256: str
    layout: str
    representation: str
    """The camera representation, by the paper's name."""
    in_channels: int
    """Input channels of the denoiser."""
    uses_ema: bool
    licence: str


@dataclass(frozen=True, kw_only=True)
class CachedWeights:
    """Weights in the cache."""

    name: str
    folder: Path
    source: Source
    notes: tuple[str, ...] = ()
    """What the import found out, where it was one."""

    @property
    def pipeline(self) -> Path:
        """The folder that `ZeroNVSPipeline.from_pretrained` loads."""
        return self.folder / PIPELINE_NAME


def cache_name(name: str) -> str:
    """Return the name in the cache of a name or hub id ("owner/name")."""
    return name.replace("/", "--")


class WeightsCache:
    """A folder of weights by name."""

    def __init__(self, root: Path) -> None:
        """Use a folder, which need not exist."""
        self.root = root

    def folder(self, name: str) -> Path:
        """Return where weights of a name lie, or would."""
        return self.root / "models" / cache_name(name)

    def find(self, name: str) -> CachedWeights | None:
        """Return the weights of a name or hub id; None where they are not here.

        Raises:
            InputError: Their record is damaged.
        """
        key = cache_name(name)
        folder = self.folder(key)
        path = folder / SOURCE_NAME
        if not _NAME.fullmatch(key) or not path.is_file():
            return None
        content = read_json(path, max_bytes=2**16)
        fields = Source.__dataclass_fields__
        if not isinstance(content, dict) or any(
            type(content.get(field)).__name__ != getattr(kind.type, "__name__", "")
            for field, kind in fields.items()
        ):
            raise InputError(f"{path} is damaged; remove {folder} and import the weights again.")
        source = Source(**{field: content[field] for field in fields})
        return CachedWeights(name=key, folder=folder, source=source)

    def entries(self) -> list[CachedWeights]:
        """Return everything in the cache, by name.

        Raises:
            InputError: A record is damaged.
        """
        models = self.root / "models"
        names = sorted(path.name for path in models.iterdir()) if models.is_dir() else []
        return [found for name in names if (found := self.find(name)) is not None]

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Keep other processes from the same weights."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(locks / key, timeout=0):
                yield
        except Timeout as error:
            raise InputError(f"another process is at work on {key}; wait for it.") from error


def checked_name(name: str) -> str:
    """Return the name in the cache; refuse what is no name.

    Raises:
        InputError: It is none.
    """
    key = cache_name(name)
    if not _NAME.fullmatch(key) or key in RESERVED:
        raise InputError(
            f"{name!r} is no name for weights; letters, digits, dots and dashes make one",
            argument="name",
        )
    return key
