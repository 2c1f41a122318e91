"""A tiny model folder with the real classes, and a photograph."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import tiny_warp

from zeronvs.cli import main


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model of the built-in kind with very narrow layers, untrained."""
    with torch.random.fork_rng():
        pipe = tiny_warp(seed=0, downscale=4)
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def photo_path(tmp_path: Path) -> Path:
    """Return a photograph of 96x80 noise."""
    values = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def zeronvs(monkeypatch: pytest.MonkeyPatch):
    """Return the command line as a function from words to the exit code."""

    def run(*words: object) -> int:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        return caught.value.code

    return run
