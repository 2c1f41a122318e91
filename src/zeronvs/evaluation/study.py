"""A preference study: videos of two methods in pairs, under names that do not tell the method.

    STUDY/study.json       the plan: the study's id, the methods, the two videos of each scene
          videos/*.mp4
          answers.sqlite   the answers of the participants (`study_answers`)

The questions are those of the paper's user study (Sec. 4.2).
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json

SCHEMA = 1
"""Version of the layout of study.json and of the answers."""
STUDY_FILE = "study.json"
QUESTIONS = {
    "realistic": "Which scene seems more realistic?",
    "creative": "Which scene seems more creative?",
    "preferred": "Which scene do you prefer?",
}
MAX_PAIRS = 500
MAX_JSON_BYTES = 4 * 2**20
_ID = re.compile(r"[0-9a-f]{32}")
_VIDEO = re.compile(r"[0-9a-f]{16}\.mp4")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same photograph and camera path by two methods."""

    scene: str
    """Name of the photograph."""
    videos: tuple[str, str]
    """File names in videos/, in the order of the methods."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as study.json describes it."""

    folder: Path
    id: str
    """Random; answers of a study with another id are of other videos."""
    methods: tuple[str, str]
    settings: dict[str, Any]
    """How the videos were made."""
    pairs: tuple[Pair, ...]

    def video(self, name: str) -> Path:
        """Return the path of a video."""
        return self.folder / "videos" / name

    @property
    def missing(self) -> list[str]:
        """The videos that are not there."""
        names = [name for pair in self.pairs for name in pair.videos]
        return [name for name in names if not self.video(name).is_file()]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A pair as one participant sees it."""

    pair: Pair
    first: int
    """Index of the method that is shown as video 1."""

    @property
    def videos(self) -> tuple[str, str]:
        """File names of video 1 and video 2."""
        return self.pair.videos[self.first], self.pair.videos[1 - self.first]


def trials(study: Study, participant: str) -> list[Trial]:
    """Return the pairs in an order and with sides that are random, and a participant's own.

    Args:
        study: The study.
        participant: Any text; the same text gives the same order.
    """
    generator = random.Random(f"{study.id} {participant}")
    order = generator.sample(study.pairs, len(study.pairs))
    return [Trial(pair=pair, first=generator.randrange(2)) for pair in order]


def read_study(folder: Path) -> Study:
    """Read the plan of a study.

    Raises:
        InputError: There is none, or it is damaged or of another version.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise InputError(f"{folder} has no {STUDY_FILE}. Make a study with: zeronvs study build")
    content = read_json(path, max_bytes=MAX_JSON_BYTES)
    if not isinstance(content, dict) or content.get("kind") != "preference study":
        raise InputError(f"{path} is not the plan of a preference study")
    if content.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has schema {content.get('schema')!r}; this program reads {SCHEMA}"
        )
    try:
        study = Study(
            folder=folder,
            id=_text(content["id"]),
            methods=_two(content["methods"]),
            settings=dict(content["settings"]),
            pairs=tuple(
                Pair(scene=_text(pair["scene"]), videos=_two(pair["videos"]))
                for pair in content["pairs"]
            ),
        )
        _check(study)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__} {error}") from error
    return study


def study_json(study: Study) -> dict[str, Any]:
    """Return the content of study.json."""
    return {
        "schema": SCHEMA,
        "kind": "preference study",
        "id": study.id,
        "methods": list(study.methods),
        "settings": study.settings,
        "pairs": [{"scene": pair.scene, "videos": list(pair.videos)} for pair in study.pairs],
    }


def check_methods(methods: tuple[str, str]) -> None:
    """Refuse names of methods that a report could not tell apart.

    Raises:
        InputError: One is empty or too long, or both are the same.
    """
    for name in methods:
        if not (name.isprintable() and 0 < len(name) <= 80):
            raise InputError(f"{name!r} is no name for a method", argument="names")
    if methods[0] == methods[1]:
        raise InputError(f"both methods are named {methods[0]!r}; give two names", argument="names")


def _check(study: Study) -> None:
    """Refuse what `study build` does not write.

    Raises:
        ValueError: Something is out of its range.
    """
    check_methods(study.methods)
    scenes = [pair.scene for pair in study.pairs]
    videos = [name for pair in study.pairs for name in pair.videos]
    if not _ID.fullmatch(study.id):
        raise ValueError("the id")
    if not 0 < len(scenes) <= MAX_PAIRS or len(set(scenes)) < len(scenes):
        raise ValueError("the number or the names of scenes")
    if not all(scene.isprintable() and 0 < len(scene) <= 255 for scene in scenes):
        raise ValueError("the name of a scene")
    if len(set(videos)) < len(videos) or not all(_VIDEO.fullmatch(name) for name in videos):
        raise ValueError("the name of a video")


def _two(values: Any) -> tuple[str, str]:
    first, second = values
    return _text(first), _text(second)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not text")
    return value
