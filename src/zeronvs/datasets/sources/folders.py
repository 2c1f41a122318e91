"""Finding the scenes of a folder, for formats in which a scene is a folder."""

import re
from collections.abc import Callable
from pathlib import Path

from zeronvs._core.errors import InputError

MOST_FOLDERS = 500_000


def find_scene_folders(
    root: Path, marks: Callable[[Path], bool], *, what: str, depth: int = 3
) -> dict[str, Path]:
    """Return the folders that hold a scene, by the scene's name `category/scene`.

    Args:
        root: A scene itself, or a folder of folders of scenes.
        marks: Whether a folder holds a scene.
        what: What a scene is known by, for the message.
        depth: How many folders deep to look.

    Raises:
        InputError: There is no such folder, or no scene in it.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    root = root.resolve()
    if marks(root):
        return {f"{clean_name(root.parent.name)}/{clean_name(root.name)}": root}
    by_name: dict[str, Path] = {}
    level = [root]
    for _ in range(depth):
        level = [path for folder in level for path in sorted(folder.iterdir()) if path.is_dir()]
        if len(level) > MOST_FOLDERS:
            raise InputError(f"{root} holds more than {MOST_FOLDERS} folders; give a part of it")
        scenes = [path for path in level if marks(path)]
        for path in scenes:
            inner = "_".join(path.relative_to(root).parts)
            add_scene(by_name, f"{clean_name(root.name)}/{clean_name(inner)}", path)
        level = [path for path in level if path not in scenes]
    if not by_name:
        raise InputError(f"{root}: there is no scene in it (a scene is a folder with {what})")
    return dict(sorted(by_name.items()))


def add_scene(scenes: dict[str, Path], scene_id: str, path: Path) -> None:
    """Add a scene under a name that no other has."""
    name, number = scene_id, 2
    while name in scenes:
        name, number = f"{scene_id}_{number}", number + 1
    scenes[name] = path


def clean_name(name: str) -> str:
    """Return a name that every file system and WebDataset's keys can take (no dots, no spaces)."""
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")
    return cleaned[:120] or "scene"


def check_split(split: str | None, known: tuple[str, ...]) -> None:
    """Refuse a split that a data set does not have.

    Raises:
        InputError: It has other ones, or none.
    """
    if split is not None and split not in known:
        there = f"it has: {', '.join(known)}" if known else "it has no splits"
        raise InputError(f"the data set has no split {split!r}; {there}")


def choose(scenes: dict[str, Path], scene_id: str) -> Path:
    """Return the path of a scene.

    Raises:
        InputError: There is no scene of this name.
    """
    if scene_id not in scenes:
        raise InputError(f"there is no scene {scene_id!r}")
    return scenes[scene_id]
