"""Conversion to shards: exact, resumable after a kill, and never stopped by one bad scene."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import make_world, write_posed

from zeronvs._core.errors import InputError
from zeronvs._core.resumable import ResumableRun
from zeronvs._core.workers import run_tasks
from zeronvs.datasets.sources.posed import PosedSource
from zeronvs.shards.convert import ConvertConfig, convert
from zeronvs.shards.writer import read_shard

CONFIG = ConvertConfig(image_format="png")


@pytest.fixture(scope="module")
def world():
    return make_world(2)


def write_set(root: Path, world, count: int) -> Path:
    for number in range(count):
        (root / f"s{number}").mkdir(parents=True)
        write_posed(root / f"s{number}", world)
    return root


def run(source: Path, out: Path, config: ConvertConfig = CONFIG, **options):
    return convert(partial(PosedSource, source), out, config, description="test", **options)


def shard_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def test_scenes_come_back_with_cameras_and_depth(tmp_path: Path, world):
    report = run(write_set(tmp_path / "set", world, 2), tmp_path / "out")
    assert report.failed == ()
    (shard,) = report.manifest.shards
    scenes = list(read_shard(tmp_path / "out" / shard.file))
    assert [scene.scene_id for scene in scenes] == ["set/s0", "set/s1"]
    assert [entry.frames for entry in shard.scenes] == [2, 2]
    assert shard.scenes[0].scales["7dof_quantile_scale"] is not None
    for index, view in enumerate(world.views):
        camera = scenes[0].camera(index)
        assert camera.image_size_px == (256, 256)
        pose = view.camera.camera_to_world
        torch.testing.assert_close(camera.camera_to_world, pose, atol=1e-4, rtol=0)
        depth_z = scenes[0].depth_z(index)
        assert depth_z is not None
        assert float((depth_z > 0).float().mean()) == 1.0
    # What one frame saw, the other sees at the depth that its own map says.
    from zeronvs.cameras.warp import project, unproject

    first, second = scenes[0].view(0), scenes[0].view(1)
    uv, depth_z = project(unproject(first).reshape(-1, 3), second.camera)
    inside = ((uv >= 0) & (uv < 256)).all(-1) & (depth_z > 0)
    assert second.depth_z is not None
    there = second.depth_z[uv[inside, 1].long(), uv[inside, 0].long()]
    ratio = (depth_z[inside] / there).log().abs()
    assert float((ratio < 0.06).float().mean()) > 0.4  # the rest is hidden behind something


def test_workers_do_not_change_the_shards(tmp_path: Path, world):
    source = write_set(tmp_path / "set", world, 4)
    run(source, tmp_path / "one", max_shard_bytes=300_000)
    run(source, tmp_path / "two", max_shard_bytes=300_000, workers=2)
    assert len(shard_bytes(tmp_path / "one")) > 1
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")


def test_a_bad_scene_is_reported_and_skipped(tmp_path: Path, world):
    source = write_set(tmp_path / "set", world, 3)
    (source / "s1" / "scene.json").write_text("{")
    (source / "s2" / "0001.png").write_bytes(b"broken")
    report = run(source, tmp_path / "out")
    assert [scene.scene_id for scene in report.failed] == ["set/s1", "set/s2"]
    assert report.manifest.scene_ids == {"set/s0"}
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["failed"] == ["set/s1", "set/s2"]
    assert "scene.json" in written["scenes"][1]["error"]
    # Mended, it is done, and nothing else is done again.
    write_posed(source / "s1", world)
    write_posed(source / "s2", world)
    again = run(source, tmp_path / "out")
    assert [scene.scene_id for scene in again.scenes] == ["set/s1", "set/s2"]
    assert again.failed == ()
    assert again.manifest.scene_ids == {"set/s0", "set/s1", "set/s2"}


KILL = """
import os, signal, sys
from functools import partial
from pathlib import Path
from zeronvs.shards.convert import ConvertConfig, convert
from zeronvs.datasets.sources.posed import PosedSource

class Deadly(PosedSource):
    done = 0

    def load(self, scene_id, split=None):
        if Deadly.done == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        Deadly.done += 1
        return super().load(scene_id, split)

config = ConvertConfig(image_format="png")
convert(partial(Deadly, Path(sys.argv[1])), Path(sys.argv[2]), config, description="test",
        max_shard_bytes=300_000)
"""


def test_a_killed_conversion_resumes_where_it_stopped(tmp_path: Path, world):
    source = write_set(tmp_path / "set", world, 5)
    run(source, tmp_path / "whole", max_shard_bytes=300_000)
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILL, source, out, "3"], check=False, timeout=120
    )
    assert killed.returncode == -9
    kept = shard_bytes(out)
    for folder in (out, out / ".scenes"):  # left by a kill while a file was written
        (folder / ".half.0123abcd.part.tar").write_bytes(b"half")
    assert kept  # some scenes are in shards, and some wait for theirs
    again = run(source, out, max_shard_bytes=300_000)
    assert [scene.scene_id for scene in again.scenes] == ["set/s3", "set/s4"]
    report = json.loads((out / "report.json").read_text())
    assert [scene["scene_id"] for scene in report["scenes"]] == [f"set/s{k}" for k in range(5)]
    assert all(scene["seconds"] > 0 and scene["frames"] == 2 for scene in report["scenes"])
    assert shard_bytes(out).items() >= kept.items()
    assert again.manifest.scene_ids == {f"set/s{k}" for k in range(5)}
    assert shard_bytes(out) == shard_bytes(tmp_path / "whole")
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".tar") == [
        ".lock",
        "convert.json",
        "manifest.json",
        "report.json",
    ]


def test_a_folder_of_something_else_is_refused(tmp_path: Path, world):
    source = write_set(tmp_path / "set", world, 1)
    run(source, tmp_path / "out")
    with pytest.raises(InputError, match="image_format: png, now jpg"):
        run(source, tmp_path / "out", ConvertConfig(image_format="jpg"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="holds other files"):
        run(source, tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        run(source, tmp_path / "mine" / "thesis.txt")


def test_a_folder_that_another_process_writes_to_is_left_alone(tmp_path: Path, world):
    source = write_set(tmp_path / "set", world, 1)
    with ResumableRun(tmp_path / "out"), pytest.raises(InputError, match="another process"):
        run(source, tmp_path / "out")
    assert shard_bytes(tmp_path / "out") == {}
    assert run(source, tmp_path / "out").failed == ()


def test_sparse_depth_is_filled_by_the_network_for_the_viewer_scale(tmp_path: Path, world):
    from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews
    from zeronvs.shards.convert import convert_scene

    def sparse(index: int) -> FramePixels:
        depth_z = np.zeros_like(world.depth_z(index))
        depth_z[::9, ::9] = world.depth_z(index)[::9, ::9]
        return FramePixels(world.pixels(index), depth_z)

    frames = tuple(SceneFrame(str(k), world.cameras[k], partial(sparse, k)) for k in range(2))
    scene = SceneViews("a/b", frames)
    flat, _ = convert_scene(scene, CONFIG, lambda image: torch.ones_like(image[:, 0]))
    alone, _ = convert_scene(scene, CONFIG)
    for index in range(2):
        flat_scale = flat.frames[index].metadata["zeronvs"]["viewer_scale"]
        known = alone.frames[index].metadata["zeronvs"]["viewer_scale"]
        assert flat_scale != known
        assert torch.equal(flat.depth_z(index), alone.depth_z(index))  # stored: what is known


def explode(task: int) -> int:
    import os

    if task == 2:
        os._exit(7)
    if task == 3:
        raise InputError("three is bad")
    return task * task


def make_worker():
    return explode


def test_a_worker_that_dies_costs_one_task():
    results = {r.task: r for r in run_tasks(make_worker, list(range(6)), workers=2)}
    values = {task: result.value for task, result in results.items() if result.error is None}
    assert values == {0: 0, 1: 1, 4: 16, 5: 25}
    assert "exit code 7" in (results[2].error or "")
    assert results[3].error == "three is bad"
