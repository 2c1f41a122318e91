"""A study whose first method is red and whose second is blue, so that pixels tell them apart."""

from pathlib import Path

import torch

from zeronvs._core.files import write_json
from zeronvs.evaluation.study import Pair, Study, study_json
from zeronvs.evaluation.study_answers import Answer
from zeronvs.formats.video import write_video

COLOURS = ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9))
METHODS = ("anchored", "plain")
SCENES = ("bonsai", "garden", "stump")


def write_study(folder: Path, scenes: tuple[str, ...] = SCENES, *, size_px: int = 64) -> Study:
    """Write a study folder with short videos."""
    pairs = []
    for number, scene in enumerate(scenes):
        names = tuple(f"{2 * number + side:016x}.mp4" for side in (0, 1))
        pairs.append(Pair(scene=scene, videos=(names[0], names[1])))
    study = Study(
        folder=folder,
        id="0123456789abcdef" * 2,
        methods=METHODS,
        settings={"frames": 12},
        pairs=tuple(pairs),
    )
    for pair in pairs:
        for name, colour in zip(pair.videos, COLOURS, strict=True):
            frames = torch.tensor(colour)[None, :, None, None].repeat(12, 1, size_px, size_px)
            for index in range(len(frames)):  # a white bar that moves
                frames[index, :, : size_px // 4, index * 4 : index * 4 + 4] = 1.0
            write_video(study.video(name), frames)
    write_json(folder / "study.json", study_json(study))
    return study


def answer(
    person: str, scene: str, question: str, chosen: int, *, first: int = 0, at: float = 1e9
) -> Answer:
    """Return one answer."""
    return Answer(person, scene, question, chosen, first, at)
