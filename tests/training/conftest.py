"""A tiny pack of procedural images, and a tiny pipeline of the built-in kind."""

import pytest
from tiny_pack import make_pack
from tiny_pipelines import tiny_warp

from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.training.pack import TrainingPack


@pytest.fixture(scope="session")
def pack() -> TrainingPack:
    return make_pack()


def make_tiny_pipe(seed: int = 0) -> ZeroNVSPipeline:
    return tiny_warp(seed=seed, prediction_type="sample", downscale=4)


@pytest.fixture
def tiny_pipe():
    """Return the maker of tiny pipelines: the same seed gives the same weights."""
    return make_tiny_pipe
