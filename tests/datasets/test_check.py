"""The check: right conventions pass, wrong ones are named, and everything left out is told."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import World, make_world, write_posed
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs._core.random import seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at
from zeronvs.cameras.warp import project, unproject
from zeronvs.datasets.check import check_scene, check_source
from zeronvs.datasets.check_image import epipolar_line
from zeronvs.datasets.pose_hypotheses import (
    AS_GIVEN,
    HYPOTHESES,
    Matches,
    reprojection_errors,
    score_hypotheses,
)
from zeronvs.datasets.procedural import SyntheticSource, drawn_texture, random_scene
from zeronvs.datasets.sources.posed import PosedSource
from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews


@pytest.fixture(scope="module")
def views():
    """A procedural scene whose cameras stay close to each other, so that corners match."""
    generator = seeded_generator(5)
    textures = torch.stack([drawn_texture(generator, 256) for _ in range(8)])
    scene = random_scene(generator, textures)
    angle = 0.05 * torch.arange(4)
    position = torch.stack([1.5 * angle.cos(), 1.5 * angle.sin(), 0.7 + 0.4 * angle], dim=-1)
    poses = look_at(position, torch.tensor([0.0, 0.0, 0.3]).expand(4, 3))
    cameras = Camera.from_fov(poses, 0.9, (256, 256))
    return World([scene.render(cameras[index]) for index in range(4)])


def scene_of(world, *, pose=lambda p: p, depth=lambda z: z, camera=lambda c: c) -> SceneViews:
    frames = tuple(
        SceneFrame(
            f"{k}.png",
            camera(replace(view.camera, camera_to_world=pose(view.camera.camera_to_world))),
            partial(FramePixels, world.pixels(k), depth(world.depth_z(k))),
        )
        for k, view in enumerate(world.views)
    )
    return SceneViews("test/scene", frames)


def exact_matches(world, first: int, second: int) -> Matches:
    one, other = world.views[first], world.views[second]
    points = unproject(one)[8::16, 8::16].reshape(-1, 3)
    uv, _ = project(points, one.camera)
    seen, depth_z = project(points, other.camera)
    good = depth_z > 0
    return Matches(first, second, uv[good], seen[good])


def test_exact_matches_fit_exactly(views):
    matches = exact_matches(views, 0, 1)
    error = reprojection_errors(matches, views.cameras[0], views.cameras[1])
    assert float(error.max()) < 1e-2


@pytest.mark.parametrize("name", [name for name in HYPOTHESES if name != AS_GIVEN])
def test_each_misreading_is_recognised(views, name: str):
    # The misreading is what the named remedy undoes; all remedies here are their own inverse.
    wrong = [
        replace(c, camera_to_world=_undone(name, c.camera_to_world.double()).float())
        for c in views.cameras
    ]
    matches = [exact_matches(views, 0, 1), exact_matches(views, 1, 2), exact_matches(views, 0, 3)]
    scores = score_hypotheses(matches, wrong)
    assert max(scores, key=lambda hypothesis: scores[hypothesis]) == name
    assert scores[name] > 0.95
    assert scores[AS_GIVEN] < scores[name] - 0.2


def _undone(name: str, pose: torch.Tensor) -> torch.Tensor:
    """Return the pose that the remedy turns into the given one."""
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=pose.dtype))
    if name == "the poses are inverted, and their y and z axes turned over":
        return torch.linalg.inv(pose @ flip)
    return HYPOTHESES[name](pose)


def test_a_focal_length_of_another_size_is_recognised(views):
    def halved(camera: Camera) -> Camera:
        intrinsics_px = camera.intrinsics_px.clone()
        intrinsics_px[[0, 1], [0, 1]] *= 0.5
        return replace(camera, intrinsics_px=intrinsics_px)

    matches = [exact_matches(views, 0, 1), exact_matches(views, 1, 2)]
    scores = score_hypotheses(matches, [halved(camera) for camera in views.cameras])
    assert max(scores, key=lambda name: scores[name]) == (
        "the focal length is off by a factor of 0.5"
    )


def test_a_good_scene_passes_and_a_sheet_is_drawn(views):
    check, sheet = check_scene(scene_of(views), pairs=2)
    assert check.problems == ()
    assert check.agreement is not None
    assert check.agreement > 0.7
    assert check.depth_factor == pytest.approx(1, abs=0.05)
    assert sheet is not None
    assert sheet.width > 1000
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_wrong_poses_are_named(views):
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    check, _ = check_scene(scene_of(views, pose=lambda pose: pose @ flip), pairs=2)
    assert "OpenCV against OpenGL" in check.problems[0]
    check, _ = check_scene(scene_of(views, pose=torch.linalg.inv), pairs=2)
    assert "world-to-camera" in check.problems[0]


def test_depth_of_another_unit_and_inverse_depth_are_named(views):
    check, _ = check_scene(scene_of(views, depth=lambda z: 10 * z), pairs=2)
    assert re.search(
        r"is (9\.9\d?|10(\.\d)?) times the depth that the poses imply", check.problems[0]
    )
    check, _ = check_scene(scene_of(views, depth=lambda z: 1 / z), pairs=2)
    assert "inverse depth" in check.problems[0]


def test_broken_poses_and_still_cameras_are_reported(views):
    def broken(pose: torch.Tensor) -> torch.Tensor:
        return torch.full_like(pose, torch.nan)

    check, sheet = check_scene(scene_of(views, pose=broken))
    assert any("not finite" in problem for problem in check.problems)
    assert sheet is None
    check, _ = check_scene(scene_of(views, pose=lambda pose: 2 * pose))
    assert any("scaled by 2" in problem for problem in check.problems)
    check, _ = check_scene(scene_of(views, pose=lambda pose: torch.eye(4)), pairs=1)
    assert any("all poses are the same" in problem for problem in check.problems)


def test_a_few_frames_left_out_are_a_note_and_most_are_a_problem(views):
    def fails() -> FramePixels:
        raise InputError("cut short")

    whole = scene_of(views)
    one = (replace(whole.frames[0], read=fails), *whole.frames[1:])
    check, sheet = check_scene(replace(whole, frames=one, left_out=1), pairs=1)
    assert check.problems == ()
    assert check.frames == 5
    assert check.notes == ("2 of 5 frames cannot be used; e.g. 0.png left out: cut short",)
    assert "good" in check.verdict
    assert "cut short" in check.verdict
    assert sheet is not None
    notes = ("9.png left out: there is no such image",)
    check, _ = check_scene(replace(whole, left_out=9, notes=notes), pairs=1)
    assert "9 of 13 frames" in check.problems[0]
    check, _ = check_scene(SceneViews("a/b", (), ("0.png left out: scaled by 0.33",), 7))
    assert check.problems == (
        "only 0 of 7 frames can be used, which makes no pair: 0.png left out: scaled by 0.33",
    )


def test_epipolar_lines_run_through_the_matches(views):
    matches = exact_matches(views, 0, 1)
    first, second = views.cameras[0], views.cameras[1]
    for index in range(0, len(matches), 37):
        uv = matches.second_uv[index]
        if bool(((uv > 2) & (uv < 254)).all()):
            line = epipolar_line(matches.first_uv[index], first, second)
            assert np.linalg.norm(line - uv.numpy(), axis=1).min() < 1.0


def test_a_source_is_checked_scene_by_scene(tmp_path: Path):
    for name in ("good", "bad"):
        (tmp_path / "set" / name).mkdir(parents=True)
        write_posed(tmp_path / "set" / name, make_world(2))
    (tmp_path / "set" / "bad" / "0001.png").write_bytes(b"x")
    checks = check_source(partial(PosedSource, tmp_path / "set"), tmp_path / "out", pairs=1)
    assert [check.scene_id for check in checks] == ["set/bad", "set/good"]
    assert checks[0].problems[0].startswith("only 1 of 2 frames can be used")
    assert "0001.png left out" in checks[0].problems[0]
    assert checks[1].sheet is not None
    with Image.open(tmp_path / "out" / checks[1].sheet) as opened:
        assert opened.size[0] > 1000
    assert (tmp_path / "out" / "report.json").is_file()


def test_procedural_scenes_repeat_and_differ():
    source = SyntheticSource(3, 2, seed=1, split="train")
    ids = source.scene_ids()
    assert len(set(ids)) == 3
    first = source.load(ids[0]).frames[0].read()
    again = SyntheticSource(9, 2, seed=1, split="train").load(ids[0]).frames[0].read()
    other = source.load(ids[1]).frames[0].read()
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).any()
    assert first.depth_z is not None
    assert (first.depth_z > 0).all()
