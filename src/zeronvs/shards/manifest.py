"""The content of a folder of shards: `manifest.json`, beside them.

    {"format": 1, "split": "train", "source": "...", "licence": "...", "shards": [
        {"file": "train-000000.tar", "bytes": 123, "scenes": [
            {"scene_id": "category/scene", "frames": 100, "fov_y_deg": 55.1,
             "depth_quantiles": [...], "scales": {"7dof": 1.0, ...}}]}]}

Shards without a manifest load too: it is for people, for splitting work, and for resuming a
conversion.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_json

FILE_NAME = "manifest.json"
FORMAT = 1
MAX_BYTES = 1 << 30
"""A manifest is never larger; a hundred thousand scenes take 50 MB."""


@dataclass(frozen=True)
class SceneEntry:
    """One scene of the manifest."""

    scene_id: str
    """ "category/scene"."""
    frames: int
    fov_y_deg: float
    """Field of view of the first frame's centre square."""
    depth_quantiles: tuple[float | None, ...]
    """Medians over the frames of each of `scene_statistics.DEPTH_QUANTILES`, scene units."""
    scales: dict[str, float | None]
    """Scene scale by the published name of the representation; of the viewer, the median."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard of the manifest."""

    file: str
    """Name of the tar, in the manifest's folder."""
    bytes: int
    scenes: tuple[SceneEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """Content of a folder of shards."""

    split: str
    """E.g. "train"."""
    source: str
    """Where the scenes come from, for people."""
    shards: tuple[ShardEntry, ...] = ()
    licence: str | None = None

    @property
    def scene_ids(self) -> set[str]:
        """The scenes of all shards."""
        return {scene.scene_id for shard in self.shards for scene in shard.scenes}


def read_manifest(folder: Path) -> Manifest | None:
    """Read `manifest.json` of a folder; None where there is none.

    Raises:
        InputError: It cannot be read, or is not a manifest.
    """
    path = folder / FILE_NAME
    try:
        if not path.exists():
            return None
        content = read_json(path, max_bytes=MAX_BYTES)
        if content["format"] != FORMAT:
            raise InputError(f"{path} has format {content['format']!r}; this reads {FORMAT}")
        shards = tuple(_shard_entry(entry) for entry in content["shards"])
        licence = content.get("licence")
        return Manifest(
            str(content["split"]),
            str(content["source"]),
            shards,
            None if licence is None else str(licence),
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0][:120]
        raise InputError(f"{path} is not a manifest of shards: {reason}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` of a folder, whole or not at all."""
    content: dict[str, Any] = {"format": FORMAT, "split": manifest.split}
    content["source"] = manifest.source
    if manifest.licence is not None:
        content["licence"] = manifest.licence
    content["shards"] = [asdict(shard) for shard in manifest.shards]
    write_json(folder / FILE_NAME, content)


def finite_or_none(value: float) -> float | None:
    """Return a number as JSON can hold it: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def _shard_entry(entry: dict[str, Any]) -> ShardEntry:
    name = entry["file"]
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise InputError("a manifest names a shard outside its folder")
    scenes = tuple(
        SceneEntry(
            str(scene["scene_id"]),
            int(scene["frames"]),
            float(scene["fov_y_deg"]),
            tuple(None if v is None else float(v) for v in scene["depth_quantiles"]),
            {str(k): None if v is None else float(v) for k, v in scene["scales"].items()},
        )
        for scene in entry["scenes"]
    )
    return ShardEntry(name, int(entry["bytes"]), scenes)
