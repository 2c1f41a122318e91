"""Tiny pipelines of both kinds."""

import pytest
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.diffusion.pipeline import ZeroNVSPipeline


@pytest.fixture
def released_pipe() -> ZeroNVSPipeline:
    return tiny_released()


@pytest.fixture
def warp_pipe() -> ZeroNVSPipeline:
    return tiny_warp()


@pytest.fixture(params=["released", "warp"])
def pipe(request) -> ZeroNVSPipeline:
    return tiny_released() if request.param == "released" else tiny_warp()
