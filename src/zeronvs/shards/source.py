"""Shards in the published layout, ours or the authors', as a source."""

from functools import partial
from pathlib import Path

import numpy as np

from zeronvs._core.errors import InputError
from zeronvs.datasets.sources.folders import check_split
from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews
from zeronvs.shards.scene import ShardScene, read_scene
from zeronvs.shards.tar import Member, ShardDamage, scan_members


class ShardSource:
    """A folder of shards, or one shard."""

    def __init__(self, root: Path) -> None:
        """Find the shards.

        Raises:
            InputError: There is none.
        """
        self._shards = [root] if root.is_file() else sorted(root.glob("*.tar"))
        if not self._shards:
            raise InputError(f"{root}: there is no shard (.tar) in it")
        self.damages: list[ShardDamage] = []
        """Damage found while the shards are listed."""
        self._members: dict[str, list[Member]] = {}
        self._of_scene: dict[str, Path] | None = None

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all whole scenes; a folder of shards is one split."""
        check_split(split, ())
        return list(self._places())

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one scene."""
        check_split(split, ())
        damages: list[ShardDamage] = []
        shard = self._place(scene_id)
        scene = read_scene(shard, scene_id, self._members[scene_id], damages.append)
        if scene is None:
            raise InputError(f"{scene_id} in {shard.name} has no whole frame")
        frames = tuple(_frame(scene, index) for index in range(len(scene)))
        notes = tuple(f"{damage}: left out" for damage in damages)
        return SceneViews(scene_id, frames, notes, len(damages))

    def _places(self) -> dict[str, Path]:
        if self._of_scene is None:
            self._of_scene = {}
            for shard in self._shards:
                for scene_id, members in scan_members(shard, self.damages.append):
                    if self._of_scene.setdefault(scene_id, shard) == shard:
                        self._members[scene_id] = members
        return self._of_scene

    def _place(self, scene_id: str) -> Path:
        if scene_id not in self._places():
            raise InputError(f"there is no scene {scene_id!r}")
        return self._places()[scene_id]


def is_shards(folder: Path) -> bool:
    """Tell whether a path is a shard or a folder of shards."""
    return folder.suffix == ".tar" or (folder.is_dir() and any(folder.glob("*.tar")))


def _frame(scene: ShardScene, index: int) -> SceneFrame:
    return SceneFrame(scene.frames[index].name, scene.camera(index), partial(_read, scene, index))


def _read(scene: ShardScene, index: int) -> FramePixels:
    image = scene.image(index).permute(1, 2, 0).numpy()
    depth = scene.depth_z(index)
    return FramePixels(
        np.ascontiguousarray(image), None if depth is None else np.asarray(depth.numpy())
    )
