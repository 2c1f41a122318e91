"""COLMAP, nerfstudio, posed folders and shards: scenes that are folders."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import (
    HEIGHT,
    WIDTH,
    assert_same_camera,
    colmap_points,
    make_world,
    save_picture,
    write_colmap,
    write_nerfstudio,
    write_posed,
)
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs.cameras.warp import project
from zeronvs.datasets.sources.colmap import ColmapSource
from zeronvs.datasets.sources.nerfstudio import NerfstudioSource
from zeronvs.datasets.sources.posed import PosedSource
from zeronvs.shards.convert import ConvertConfig, convert_scene
from zeronvs.shards.source import ShardSource
from zeronvs.shards.writer import ShardWriter


@pytest.fixture(scope="module")
def world():
    return make_world(3)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_a_colmap_model_comes_with_cameras_and_points(tmp_path: Path, world, binary, model):
    source = ColmapSource(write_colmap(tmp_path / "a scene", world, binary=binary, model=model))
    (scene_id,) = source.scene_ids()
    assert scene_id.endswith("/a_scene")
    scene = source.load(scene_id)
    points, seen = colmap_points(world)
    for index, (frame, camera) in enumerate(zip(scene.frames, world.cameras, strict=True)):
        assert_same_camera(frame.camera, camera)
        pixels = frame.read()
        np.testing.assert_array_equal(pixels.image, world.pixels(index))
        assert pixels.points is not None
        np.testing.assert_allclose(pixels.points, points[sorted(seen[index])], atol=1e-5)


def test_colmap_points_become_depth(tmp_path: Path, world):
    source = ColmapSource(write_colmap(tmp_path / "s", world, binary=True))
    scene, _ = convert_scene(source.load(source.scene_ids()[0]), ConvertConfig(image_format="png"))
    camera = scene.camera(1)
    points, seen = colmap_points(world)
    uv, depth_z = project(torch.from_numpy(points)[sorted(seen[1])], camera)
    inside = ((uv >= 0) & (uv < 256)).all(-1)
    drawn = scene.depth_z(1)
    assert drawn is not None
    found = drawn[uv[inside, 1].long(), uv[inside, 0].long()]
    torch.testing.assert_close(found, depth_z[inside], rtol=2e-3, atol=0)
    assert (drawn > 0).sum() == len(torch.unique(uv[inside].long(), dim=0))


def test_smaller_copies_of_the_pictures_are_taken(tmp_path: Path, world):
    root = write_colmap(tmp_path / "s", world, binary=True)
    for path in sorted((root / "images").iterdir()):
        with Image.open(path) as opened:
            half = opened.resize((WIDTH // 2, HEIGHT // 2))
        (root / "images_2").mkdir(exist_ok=True)
        half.save(root / "images_2" / f"{path.stem}.jpg")
        path.unlink()
    source = ColmapSource(root)
    frame = source.load(source.scene_ids()[0]).frames[0]
    pixels = frame.read()
    assert pixels.image.shape == (HEIGHT // 2, WIDTH // 2, 3)
    halved = world.cameras[0].resized(HEIGHT // 2, WIDTH // 2)
    assert_same_camera(frame.camera_for(pixels.image.shape[:2]), halved)


def test_a_picture_of_another_shape_is_refused(tmp_path: Path, world):
    root = write_colmap(tmp_path / "s", world, binary=True)
    save_picture(root / "images" / "0001.png", np.zeros((50, 50, 3), np.uint8))
    source = ColmapSource(root)
    frame = source.load(source.scene_ids()[0]).frames[1]
    with pytest.raises(InputError, match="another shape"):
        frame.camera_for(frame.read().image.shape[:2])


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_a_cut_model_is_refused_by_the_file(tmp_path: Path, world, name: str):
    root = write_colmap(tmp_path / "s", world, binary=True)
    path = root / "sparse" / "0" / name
    path.write_bytes(path.read_bytes()[:-5])
    source = ColmapSource(root)
    with pytest.raises(InputError, match=name):
        source.load(source.scene_ids()[0])


def test_an_unknown_camera_model_is_told(tmp_path: Path, world):
    root = write_colmap(tmp_path / "s", world, binary=False)
    path = root / "sparse" / "0" / "cameras.txt"
    path.write_text(f"1 THIN_PRISM_FISHEYE {WIDTH} {HEIGHT} " + "1 " * 12)
    scene = ColmapSource(root).load(ColmapSource(root).scene_ids()[0])
    assert not scene.frames
    assert "image_undistorter" in scene.notes[0]


def test_a_picture_outside_the_folder_is_not_read(tmp_path: Path, world):
    root = write_colmap(tmp_path / "s", world, binary=False)
    path = root / "sparse" / "0" / "images.txt"
    path.write_text(path.read_text().replace("0001.png", "../../secret.png"))
    with pytest.raises(InputError, match="leads out of the folder"):
        ColmapSource(root).load(ColmapSource(root).scene_ids()[0])


def test_nerfstudio_gives_cameras_pictures_and_depth(tmp_path: Path, world):
    source = NerfstudioSource(write_nerfstudio(tmp_path / "s", world))
    frames = source.load(source.scene_ids()[0]).frames
    for index, (frame, camera) in enumerate(zip(frames, world.cameras, strict=True)):
        assert_same_camera(frame.camera, camera)
        depth_z = frame.read().depth_z
        assert depth_z is not None
        np.testing.assert_allclose(depth_z, world.depth_z(index), atol=6e-4)


def test_the_depth_unit_of_the_file_counts_and_that_of_the_user_more(tmp_path: Path, world):
    root = write_nerfstudio(tmp_path / "s", world, depth_unit_scale_factor=0.01)
    for unit, factor in ((None, 10.0), (0.002, 2.0)):
        source = NerfstudioSource(root, depth_unit=unit)
        depth_z = source.load(source.scene_ids()[0]).frames[0].read().depth_z
        assert depth_z is not None
        assert float((depth_z / world.depth_z(0)).mean()) == pytest.approx(factor, rel=1e-2)


def test_depth_may_be_an_array_of_another_size_but_no_pickle(tmp_path: Path, world):
    root = write_nerfstudio(tmp_path / "s", world)
    content = json.loads((root / "transforms.json").read_text())
    np.save(root / "depth" / "a.npy", world.depth_z(0)[::2, ::2, None])
    np.save(root / "depth" / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    content["frames"][0]["depth_file_path"] = "depth/a.npy"
    content["frames"][1]["depth_file_path"] = "depth/b.npy"
    (root / "transforms.json").write_text(json.dumps(content))
    source = NerfstudioSource(root, depth_unit=1.0)
    frames = source.load(source.scene_ids()[0]).frames
    assert frames[0].read().depth_z is not None
    with pytest.raises(InputError, match=r"b\.npy"):
        frames[1].read()


def test_the_first_nerfs_angle_and_names_without_ending(tmp_path: Path, world):
    angle = 2 * math.atan(0.5 * WIDTH / 80)
    gone = dict.fromkeys(("fl_x", "fl_y", "cx", "cy", "w", "h"))
    root = write_nerfstudio(tmp_path / "s", world, camera_angle_x=angle, **gone)
    path = root / "transforms.json"
    path.write_text(path.read_text().replace('.png", "transform', '", "transform'))
    source = NerfstudioSource(root)
    scene = source.load(source.scene_ids()[0])
    assert scene.notes == ()
    frame = scene.frames[0]
    assert frame.camera.image_size_px == (HEIGHT, WIDTH)
    expected = torch.tensor([[80.0, 0, WIDTH / 2], [0, 80.0, HEIGHT / 2], [0, 0, 1]])
    torch.testing.assert_close(frame.camera.intrinsics_px, expected)
    assert frame.read().image.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file_path": "../../x.png"}, "leads out"),
        ({"file_path": "images/none.png"}, "no such picture"),
        ({"transform_matrix": [[1, 2], [3, 4]]}, "4x4"),
        ({"fl_x": None, "fl_y": None}, "lens is missing"),
        ({"camera_model": "EQUIRECTANGULAR"}, "not read"),
        ({"depth_file_path": "/etc/passwd"}, "leads out"),
    ],
)
def test_a_frame_that_cannot_be_used_is_told(tmp_path: Path, world, change, says: str):
    root = write_nerfstudio(tmp_path / "s", world)
    content = json.loads((root / "transforms.json").read_text())
    content["frames"][1] |= change
    (root / "transforms.json").write_text(json.dumps(content))
    scene = NerfstudioSource(root).load(NerfstudioSource(root).scene_ids()[0])
    assert len(scene.frames) == 2
    assert says in scene.notes[0]


def test_posed_folders_give_measured_depth(tmp_path: Path, world):
    for name in ("one", "two"):
        (tmp_path / "set" / name).mkdir(parents=True)
        write_posed(tmp_path / "set" / name, world)
    source = PosedSource(tmp_path / "set")
    assert source.scene_ids() == ["set/one", "set/two"]
    for index, frame in enumerate(source.load("set/two").frames):
        assert_same_camera(frame.camera, world.cameras[index])
        depth_z = frame.read().depth_z
        assert depth_z is not None
        np.testing.assert_allclose(depth_z, world.depth_z(index), atol=2e-4)


def test_shards_are_a_source_too(tmp_path: Path, world):
    (tmp_path / "a").mkdir()
    source = PosedSource(write_posed(tmp_path / "a", world))
    first, _ = convert_scene(source.load(source.scene_ids()[0]), ConvertConfig(image_format="png"))
    with ShardWriter(tmp_path / "shards") as writer:
        writer.add(first)
    again = ShardSource(tmp_path / "shards")
    assert again.scene_ids() == [first.scene_id]
    second, notes = convert_scene(again.load(first.scene_id), ConvertConfig(image_format="png"))
    assert notes == ()
    for index in range(3):
        assert torch.equal(second.image(index), first.image(index))
        assert torch.equal(second.depth_z(index), first.depth_z(index))
        torch.testing.assert_close(
            second.camera(index).intrinsics_px, first.camera(index).intrinsics_px
        )


def test_a_folder_without_a_scene_is_told(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for source in (ColmapSource, NerfstudioSource, PosedSource, ShardSource):
        with pytest.raises(InputError, match="there is no s"):
            source(tmp_path / "empty")
