"""The folder of a run: what is reported, and what a kill in the midst of a video leaves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import video_process
from PIL import Image
from tiny_pipelines import FixedGeometry, tiny_released

from zeronvs._core.progress import ProgressEvent
from zeronvs.recipes.prepare import prepare_photo
from zeronvs.recipes.write_run import SamplerSettings, write_views_run

VIDEOS = {"views": ("views.mp4",), "scene": ("views.mp4", "orbit.mp4")}


def killed(kind: str, out: Path) -> int:
    """Run until the third frame of a video in a process of its own; return its exit code."""
    words = [sys.executable, video_process.__file__, kind, out, "3"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(words, env=env, capture_output=True, check=False, timeout=300).returncode


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return len(list(container.decode(video=0)))


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("kind", VIDEOS)
def test_a_kill_in_the_midst_of_a_video_leaves_no_half_file_and_the_run_resumes(
    kind: str, tmp_path: Path
):
    out = tmp_path / "run"
    assert killed(kind, out) == -signal.SIGKILL
    assert not any((out / name).exists() for name in VIDEOS[kind])
    assert [path.suffix for path in out.glob(".*.part.*")] == [".mp4"]
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    first = out / "views" / "000.png"
    if kind == "views":  # a mark on an image shows whether it is sampled again
        assert len(list((out / "views").glob("*.png"))) == 4
        Image.new("RGB", size_of(first), (250, 0, 0)).save(first)
    video_process.main(kind, out)
    for name in VIDEOS[kind]:
        assert frames_of(out / name) == 4
    assert list(out.rglob("*.part*")) == []
    assert json.loads((out / "run.json").read_text())["status"] == "complete"
    if kind == "views":
        with Image.open(first) as image:
            assert image.getpixel((0, 0)) == (250, 0, 0)


def test_every_step_of_sampling_is_reported(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    photo = prepare_photo(Image.fromarray(pixels), geometry_estimator=FixedGeometry())
    events: list[ProgressEvent] = []
    write_views_run(
        photo,
        tiny_released(),
        "orbit",
        3,
        tmp_path,
        sampler=SamplerSettings(num_inference_steps=2, batch_size=2),
        progress=events.append,
    )
    steps = [(event.step, event.total) for event in events if event.stage == "sample views"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two batches of two steps


@pytest.mark.parametrize("samples", [1, 2])
def test_several_samples_of_a_view_have_folders_and_a_sheet(samples: int, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    photo = prepare_photo(Image.fromarray(pixels), geometry_estimator=FixedGeometry())
    sampler = SamplerSettings(num_inference_steps=2, samples=samples)
    write_views_run(photo, tiny_released(), "orbit", 2, tmp_path, sampler=sampler)
    folders = [tmp_path] if samples == 1 else [tmp_path / "sample_0", tmp_path / "sample_1"]
    for folder in folders:
        assert frames_of(folder / "views.mp4") == 2
        assert len(list((folder / "views").glob("*.png"))) == 2
    whole = tmp_path / "sheet.png"
    if samples == 2:  # a row for each camera, a column for each sample
        width_px, height_px = size_of(folders[0] / "views" / "000.png")
        assert size_of(whole)[0] >= 2 * width_px
        assert size_of(whole)[1] >= 2 * height_px
        first, second = ((folder / "views" / "000.png").read_bytes() for folder in folders)
        assert first != second
