"""Pairs that other papers publish, in trees laid out as theirs are."""

import json
from pathlib import Path

import pytest
import torch
from benchmark_trees import walk
from foreign_files import World, write_nerfstudio, write_pixelsplat
from tiny_pipelines import FixedGeometry

from zeronvs._core.errors import InputError
from zeronvs.cameras.poses import relative_pose
from zeronvs.evaluation.held_out import HeldOutPair
from zeronvs.evaluation.protocols.published_pairs import (
    SPLIT_FILE,
    open_pairs,
    read_evaluation_index,
)
from zeronvs.evaluation.scenes import SCENE, ScenesEvaluationConfig, evaluate_scenes
from zeronvs.evaluation.views import COPY, ViewsEvaluationConfig, evaluate_views
from zeronvs.scene.lift import LiftConfig

HEIGHT, WIDTH = 108, 162
INPUT = 2
SMALL = LiftConfig(refine_depth=False, fill_side_px=48, surround_width_px=64, color_steps=1)


@pytest.fixture(scope="module")
def world() -> World:
    return World(walk(9, (HEIGHT, WIDTH)))


@pytest.fixture(scope="module")
def geometry(world: World) -> FixedGeometry:
    """Return the true depth of the input in another scale."""
    view = world.views[INPUT]
    whole, square = view.depth_z, view.center_square().depth_z
    assert whole is not None
    assert square is not None
    return FixedGeometry(lambda image: 0.4 * (square if image.shape[-1] == HEIGHT else whole)[None])


def write_index(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def chunks(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return chunks of RealEstate10K's test set, as pixelSplat's authors release them."""
    root = tmp_path_factory.mktemp("chunks") / "re10k"
    write_pixelsplat(root, world, ["5aca87f95a9412c6", "other"]).parent.rename(root / "test")
    return root


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an evaluation index of more clips than the chunks have."""
    content = {
        "5aca87f95a9412c6": {"context": [INPUT, 8], "target": [4, 6]},
        "other": None,
        "absent": {"context": [0, 3], "target": [1, 2, 2]},
    }
    return write_index(tmp_path_factory.mktemp("index") / "evaluation_index_re10k.json", content)


def write_split_scene(root: Path, world: World, split: object, name: str = SPLIT_FILE) -> Path:
    """Write a scene as SEVA's benchmark has it; its images' names are not in their order."""
    write_nerfstudio(root, world, w=WIDTH, h=HEIGHT)
    content = json.loads((root / "transforms.json").read_text())
    for number, frame in enumerate(content["frames"]):
        del frame["depth_file_path"]
        renamed = f"images/image_{9 - number}.png"
        (root / frame["file_path"]).rename(root / renamed)
        frame["file_path"] = f"./{renamed}"
    (root / "transforms.json").write_text(json.dumps(content))
    (root / name).write_text(json.dumps(split))
    return root


def assert_is_of(pair: HeldOutPair, world: World, target: int, *, whole: bool = False) -> None:
    """Check both views, the pose between them, and depth and scale of the input."""
    views = [world.views[INPUT], world.views[target]]
    truth, seen = views if whole else [view.center_square() for view in views]
    assert truth.depth_z is not None
    assert pair.input_view.depth_z is not None
    for found, wanted in ((pair.input_view, truth), (pair.target_view, seen)):
        assert found.image.shape == wanted.image.shape
        assert float((found.image - wanted.image).abs().mean()) < 0.02
        torch.testing.assert_close(
            found.camera.intrinsics_px, wanted.camera.intrinsics_px, atol=0.01, rtol=0
        )
    torch.testing.assert_close(
        *(
            relative_pose(to.camera.camera_to_world, of.camera.camera_to_world)
            for to, of in ((pair.target_view, pair.input_view), (seen, truth))
        ),
        atol=1e-4,
        rtol=0,
    )
    error = (pair.input_view.depth_z / truth.depth_z - 1).abs()
    assert float(error.median()) < 0.04
    near = float(torch.quantile(truth.depth_z, 0.2))
    assert pair.scene_scale == pytest.approx(near, rel=0.04)


def test_an_evaluation_index_pairs_its_first_context_frame_with_each_target(
    chunks: Path, index: Path, world: World, geometry: FixedGeometry
):
    data = open_pairs(chunks, HEIGHT, geometry, split=index)
    assert [(n.scene, n.input, n.target) for n in data.names] == [
        ("5aca87f95a9412c6", "2", "4"),
        ("5aca87f95a9412c6", "2", "6"),
    ]
    assert "2 of its 5 pairs" in data.notes[0]
    for name in data.names:
        assert_is_of(data.reader.pair(name), world, int(name.target))
    assert open_pairs(chunks, HEIGHT, geometry, split=index, limit=1).names == data.names[:1]


def test_whole_frames_keep_their_shape(
    chunks: Path, index: Path, world: World, geometry: FixedGeometry
):
    data = open_pairs(chunks, HEIGHT, geometry, split=index, whole=True)
    assert_is_of(data.reader.pair(data.names[0]), world, 4, whole=True)


def test_a_split_beside_transforms_counts_frames_in_the_order_of_the_file(
    tmp_path: Path, world: World, geometry: FixedGeometry
):
    split = {"train_ids": [INPUT], "test_ids": [6, 0]}
    write_split_scene(tmp_path / "bench" / "scene_b", World(world.views[1:]), split)
    write_split_scene(tmp_path / "bench" / "scene_a", world, split)
    several = {"train_ids": [0, 4, 8], "test_ids": [1]}
    write_split_scene(tmp_path / "bench" / "few", world, several, "train_test_split_3.json")
    data = open_pairs(tmp_path / "bench", HEIGHT, geometry)
    assert [(n.scene, n.target) for n in data.names] == [
        ("scene_a", "6"), ("scene_a", "0"), ("scene_b", "6"), ("scene_b", "0"),
    ]  # fmt: skip
    for name in data.names[:2]:
        assert_is_of(data.reader.pair(name), world, int(name.target))
    found = data.reader.pair(data.names[2]).input_view.image  # the same number, another scene
    assert float((found - world.views[INPUT + 1].center_square().image).abs().mean()) < 0.02
    one = open_pairs(tmp_path / "bench" / "scene_b", HEIGHT, geometry)
    assert one.names == data.names[2:]


def test_published_pairs_are_evaluated_like_others(
    chunks: Path, index: Path, geometry: FixedGeometry
):
    config = ViewsEvaluationConfig(size_px=HEIGHT)
    views = evaluate_views(None, chunks, None, config, geometry_estimator=geometry, split=index)
    assert [pair.name.target for pair in views.pairs] == ["4", "6"]
    assert views.classes() == ["all"]
    assert not views.left_out
    assert "2 of its 5 pairs" in views.notes()[0]
    scenes = evaluate_scenes(
        chunks,
        ScenesEvaluationConfig(size_px=HEIGHT, limit=1, lift=SMALL),
        geometry_estimator=geometry,
        split=index,
    )
    assert scenes.notes()[0] == views.notes()[0]
    # The target lies a step aside: a scene whose scale were wrong would not beat the copied input.
    better = scenes.mean("all", SCENE, "PSNR") - scenes.mean("all", COPY, "PSNR")
    assert better > 3


def test_frames_that_cannot_be_read_are_left_out_with_the_reason(
    tmp_path: Path, world: World, geometry: FixedGeometry
):
    split = {"train_ids": [INPUT], "test_ids": [4, 9]}
    scene = write_split_scene(tmp_path / "scene", world, split)
    config = ViewsEvaluationConfig(size_px=HEIGHT)
    found = evaluate_views(None, scene, None, config, geometry_estimator=geometry)
    assert [pair.name.target for pair in found.pairs] == ["4"]
    assert "names frame 9 of scene, which has 9 frames" in found.left_out[0].reason
    data = open_pairs(scene, HEIGHT, None)
    with pytest.raises(InputError, match=r"depth of frame 2 .* is unknown"):
        data.reader.pair(data.names[0])
    path = scene / "transforms.json"
    content = json.loads(path.read_text())
    for name, says in (
        ("images/none.png", "a split counts all frames"),
        ("../outside.png", "leads out of the folder"),
    ):
        (tmp_path / "outside.png").write_bytes((scene / "images" / "image_9.png").read_bytes())
        content["frames"][0]["file_path"] = name
        path.write_text(json.dumps(content))
        data = open_pairs(scene, HEIGHT, geometry)
        with pytest.raises(InputError, match=says):
            data.reader.pair(data.names[0])


def test_a_damaged_camera_elsewhere_in_the_clip_does_not_matter(
    tmp_path: Path, index: Path, world: World, geometry: FixedGeometry
):
    path = write_pixelsplat(tmp_path / "re10k", world, ["5aca87f95a9412c6"])
    clips = torch.load(path, weights_only=True)
    clips[0]["cameras"][0] = torch.nan
    torch.save(clips, path)
    data = open_pairs(tmp_path / "re10k", HEIGHT, geometry, split=index)
    assert_is_of(data.reader.pair(data.names[0]), world, 4)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "not an object of clips"),
        ({}, "holds no pairs"),
        ({"aaa": None}, "holds no pairs"),
        ({"aaa": 3}, "clip 'aaa' should have 'context' and 'target'"),
        ({"aaa": {"context": [0], "target": []}}, "should have"),
        ({"aaa": {"context": 0, "target": [1]}}, "should have"),
        ({"aaa": {"context": [True], "target": [1]}}, "should have"),
        ({"aaa": {"context": [0], "target": [-1]}}, "should have"),
        ({"aaa": {"context": [0], "target": ["1"]}}, "should have"),
    ],
)
def test_a_wrong_index_is_refused_in_one_line(tmp_path: Path, content: object, says: str):
    with pytest.raises(InputError, match=says) as caught:
        read_evaluation_index(write_index(tmp_path / "index.json", content))
    assert "\n" not in str(caught.value)


def test_an_index_of_other_clips_is_refused(chunks: Path, tmp_path: Path):
    index = write_index(tmp_path / "index.json", {"aaa": {"context": [0, 2], "target": [1]}})
    with pytest.raises(InputError, match="has none of the clips of"):
        open_pairs(chunks, HEIGHT, None, split=index)
    with pytest.raises(InputError, match=r"no \.torch chunks"):
        open_pairs(tmp_path, HEIGHT, None, split=index)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1], "should have 'train_ids' and 'test_ids'"),
        ({"train_ids": [0]}, "should have 'train_ids' and 'test_ids'"),
        ({"train_ids": [0, 4], "test_ids": [1]}, "has 2 train_ids"),
    ],
)
def test_a_wrong_split_is_refused_in_one_line(tmp_path: Path, content: object, says: str):
    write_index(tmp_path / SPLIT_FILE, content)
    with pytest.raises(InputError, match=says) as caught:
        open_pairs(tmp_path, HEIGHT, None)
    assert "\n" not in str(caught.value)
