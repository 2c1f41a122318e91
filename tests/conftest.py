"""What every test shares: the golden folder, the one rule of skipping, one thread a worker."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from browser import Browser, find_chromium
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.recipes.presets import FIELD, PRESETS, LiftRecipe, OutputConfig
from zeronvs.scene.lift import LiftConfig

pytest_plugins = ["pytester"]

REPOSITORY = Path(__file__).resolve().parent.parent

# Tests are tiny and run two workers wide: more threads would only fight over the two cores.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and mark what needs the golden folder."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA device, and this machine has none")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "golden_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.golden)


@pytest.fixture(autouse=True)
def _own_accelerator_state() -> Iterator[None]:
    """Let no test inherit the precision of another's training."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a tab of a headless Chromium; without one, the test is skipped and says so."""
    if find_chromium() is None:
        pytest.skip("needs Chromium (Debian: chromium-headless-shell), and this machine has none")
    tab = Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Return the folder of published inputs and outputs.

    ZERONVS_GOLDEN names it; without it, `../shared/golden` beside the checkout is read, and where
    that is missing too the test is skipped and the summary says so.
    """
    named = os.environ.get("ZERONVS_GOLDEN")
    if named:
        folder = Path(named).expanduser().resolve()
        if not folder.is_dir():
            pytest.fail(f"ZERONVS_GOLDEN names {folder}, which is not a folder", pytrace=False)
        return folder
    folder = REPOSITORY.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("no golden folder: set ZERONVS_GOLDEN, or put it at ../shared/golden")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture
def released_pipe() -> ZeroNVSPipeline:
    return tiny_released()


@pytest.fixture
def warp_pipe() -> ZeroNVSPipeline:
    return tiny_warp()


@pytest.fixture(params=["released", "warp"])
def pipe(request) -> ZeroNVSPipeline:
    return tiny_released() if request.param == "released" else tiny_warp()


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the preview and the small field a matter of seconds: few of everything, and small."""
    outputs = OutputConfig(
        size_px=32,
        orbit_frames=4,
        near_size_px=32,
        sway_frames=3,
        splat_steps=3,
        mesh_resolution=24,
    )
    assert FIELD.surround is not None
    small_field = replace(
        FIELD,
        surround=replace(FIELD.surround, count=3, num_inference_steps=2),
        distill=replace(FIELD.distill.with_steps(20), reference_rays=64, supervised_rays=128),
        outputs=outputs,
    )
    lift = LiftConfig(fill_side_px=48, surround_width_px=64, color_steps=1)
    monkeypatch.setitem(PRESETS, "preview", LiftRecipe(lift=lift, outputs=outputs))
    monkeypatch.setitem(PRESETS, "field", small_field)
