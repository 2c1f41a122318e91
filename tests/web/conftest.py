"""A finished run, and the photo page served with a recipe that takes seconds."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from loopback import Client, serving
from PIL import Image
from tiny_pipelines import FixedGeometry

from zeronvs.recipes.prepare import prepare_photo
from zeronvs.recipes.presets import LiftRecipe, OutputConfig
from zeronvs.recipes.write_run import write_scene_run
from zeronvs.scene.lift import LiftConfig
from zeronvs.web.jobs import Jobs, Limits
from zeronvs.web.photo_page import make_photo_app
from zeronvs.web.work import Worker

TINY = LiftRecipe(
    lift=LiftConfig(fill_side_px=48, surround_width_px=64, color_steps=1),
    outputs=OutputConfig(size_px=64, near_size_px=64, orbit_frames=4, sway_frames=4),
)
LIMITS = Limits(upload_bytes=300_000, photo_px=1_000_000, upload_s=20.0, jobs_per_visitor=12)


def photo_pixels() -> np.ndarray:
    """Return a photograph of 96x72: shades from left to right, a red square left of the middle."""
    ramp = np.linspace(40, 220, 96).astype(np.uint8)
    pixels = np.repeat(np.repeat(ramp[None, :, None], 72, axis=0), 3, axis=2)
    pixels[26:46, 24:44] = (220, 30, 20)
    return pixels


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder of a photograph in which everything is one unit away."""
    out = tmp_path_factory.mktemp("run") / "scene"
    photo = prepare_photo(Image.fromarray(photo_pixels()), geometry_estimator=FixedGeometry())
    write_scene_run(photo, None, TINY, out, path="orbit", title="A square")
    return out


@pytest.fixture(scope="session")
def photo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "red square.png"
    Image.fromarray(photo_pixels()).save(path)
    return path


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory):
    worker = partial(Worker, TINY)
    with Jobs(tmp_path_factory.mktemp("app") / "out", worker, limits=LIMITS) as jobs:
        yield jobs


@pytest.fixture(scope="module")
def address(jobs: Jobs):
    with serving(make_photo_app(jobs, host="127.0.0.1")) as address:
        yield address


@pytest.fixture
def new_visitor(address: str):
    """Return a function that returns a visitor of the photo page who has opened it."""

    def make() -> Client:
        client = Client(address)
        assert client("GET", "/").status == 200
        return client

    return make
