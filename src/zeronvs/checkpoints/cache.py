"""The user's cache of weights by name: fetched or imported once, found again without a network.

ROOT/models/NAME/pipeline/      the weights as a diffusers folder
ROOT/models/NAME/source.json    what they were made from
ROOT/downloads/NAME/            files that are on their way
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_json
from zeronvs._core.progress import Progress, silent
from zeronvs.checkpoints.convert import ConversionReport, convert_checkpoint, inspect_weights
from zeronvs.checkpoints.download import Patience, download
from zeronvs.checkpoints.folder_writer import folder_aside
from zeronvs.checkpoints.hub import address_on_hub, community_weights
from zeronvs.checkpoints.known import KnownWeights, known_by_sha256, known_weights, licence_of
from zeronvs.checkpoints.weight_files import digest

_SOURCE = "source.json"
_PIPELINE = "pipeline"
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
        return self.folder / _PIPELINE


def cache_name(name: str) -> str:
    """Return the name in the cache of a name or hub id ("owner/name")."""
    return name.replace("/", "--")


class WeightsCache:
    """A folder of weights by name."""

    def __init__(self, root: Path) -> None:
        """Use a folder, which need not exist."""
        self.root = root

    def find(self, name: str) -> CachedWeights | None:
        """Return the weights of a name or hub id; None where they are not here.

        Raises:
            InputError: Their record is damaged.
        """
        key = cache_name(name)
        folder = self.root / "models" / key
        path = folder / _SOURCE
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

    def add(
        self,
        path: Path,
        *,
        name: str | None = None,
        config_path: Path | None = None,
        licence: str | None = None,
        progress: Progress = silent,
    ) -> CachedWeights:
        """Convert weights into the cache; the files themselves stay as they are.

        Args:
            path: As for `inspect_weights`.
            name: Their name; by default that of published weights with this hash, else that of the
                file.
            config_path: As for `inspect_weights`.
            licence: Where it is known from elsewhere.

        Raises:
            InputError: They cannot be used, are not what their name stands for, or the name is
                taken.
        """
        if not path.exists():
            raise InputError(f"{path}: there is no such file or folder")
        report = inspect_weights(path, config_path=config_path)
        sha256 = digest(report.paths, progress)
        published = known_by_sha256(sha256)
        if name is None:
            name = path.resolve().stem if published is None else published.name
        known = known_weights(name)
        key = _checked_name(name)
        if known is not None:
            _check_known(report, known, path)
            licence = known.licence if licence is None else licence
        source = Source(
            file=path.name,
            size_bytes=sum(file.stat().st_size for file in report.paths),
            sha256=sha256,
            layout=report.layout,
            representation=str(report.architecture.representation),
            in_channels=report.architecture.unet.in_channels,
            uses_ema=report.uses_ema,
            licence=licence_of(sha256) if licence is None else licence,
        )
        with self._alone(key):
            present = self.find(key)
            if present is None:
                self._convert(path, key, config_path, source, progress)
                present = self.find(key)
                assert present is not None
            elif present.source.sha256 != sha256:
                raise InputError(
                    f"{key} is in the cache already, from {present.source.file} (sha256 "
                    f"{present.source.sha256[:12]}...). Remove {present.folder}, or choose another "
                    "name",
                    argument="name",
                )
        return CachedWeights(
            name=key, folder=present.folder, source=present.source, notes=report.notes
        )

    def fetch(
        self, name: str, *, patience: Patience | None = None, progress: Progress = silent
    ) -> CachedWeights:
        """Download published weights and convert them into the cache; once.

        Args:
            name: A name of `known.KNOWN`, or the hub id of a diffusers folder of the community.

        Raises:
            InputError: They are not known, or cannot be downloaded.
        """
        present = self.find(name)
        if present is not None:
            return present
        known = community_weights(name) if "/" in name else known_weights(name)
        if known is None:
            raise InputError(f"{name} names no known weights; `zeronvs model list` shows them.")
        if not known.files:
            raise InputError(f"{name} cannot be fetched: {known.remedy}")
        folder = self.root / "downloads" / known.name
        with self._alone(f"{known.name}.download"):
            present = self.find(name)  # another process may have fetched them meanwhile
            if present is not None:
                return present
            for file in known.files:
                try:
                    download(
                        address_on_hub(file) if file.hub_id else file.address,
                        folder / file.name,
                        size_bytes=file.size_bytes,
                        sha256=file.sha256,
                        patience=patience,
                        progress=progress,
                    )
                except InputError as error:
                    raise InputError(f"{error} By hand: {known.page}") from error
            first = folder if "/" in name else folder / known.files[0].name
            added = self.add(first, name=known.name, licence=known.licence, progress=progress)
            shutil.rmtree(folder)
        return added

    def _convert(
        self, path: Path, key: str, config_path: Path | None, source: Source, progress: Progress
    ) -> None:
        final = self.root / "models" / key
        for left in final.parent.glob(f".{key}.*.part"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with folder_aside(final) as folder:
            convert_checkpoint(
                path,
                folder / _PIPELINE,
                config_path=config_path,
                licence=source.licence,
                sha256=source.sha256,
                progress=progress,
            )
            write_json(folder / _SOURCE, asdict(source))

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Keep other processes from the same weights."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(locks / key, timeout=0):
                yield
        except Timeout as error:
            raise InputError(f"another process is at work on {key}; wait for it.") from error


def _checked_name(name: str) -> str:
    key = cache_name(name)
    if not _NAME.fullmatch(key) or key in RESERVED:
        raise InputError(
            f"{name!r} is no name for weights; letters, digits, dots and dashes make one",
            argument="name",
        )
    return key


def _check_known(report: ConversionReport, known: KnownWeights, path: Path) -> None:
    """Refuse weights whose layout is not that of the published ones of this name."""
    architecture = report.architecture
    columns = architecture.camera_embed_dim, architecture.unet.in_channels
    expected = (known.camera_numbers or columns[0], known.in_channels or columns[1])
    if columns != expected:
        raise InputError(
            f"{path} is not {known.name}: it takes {columns[0]} numbers of the camera and has "
            f"{columns[1]} input channels; {known.name} has {expected[0]} and {expected[1]}. "
            "Choose another name",
            argument="name",
        )
