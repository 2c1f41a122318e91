"""COLMAP, nerfstudio, posed folders and shards: scenes that are folders."""

import json
import math
import os
import shutil
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
    save_image,
    write_colmap,
    write_nerfstudio,
    write_posed,
)
from PIL import ExifTags, Image

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.warp import project
from zeronvs.datasets.sources.colmap import ColmapSource
from zeronvs.datasets.sources.nerfstudio import NerfstudioSource
from zeronvs.datasets.sources.posed import PosedSource
from zeronvs.datasets.sources.scene_source import read_image, read_map
from zeronvs.formats.transforms_json import write_transforms
from zeronvs.shards.convert import ConvertConfig, convert_scene
from zeronvs.shards.scene import ShardSource
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


def test_smaller_copies_of_the_images_are_taken(tmp_path: Path, world):
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


def test_an_image_of_another_shape_is_refused(tmp_path: Path, world):
    root = write_colmap(tmp_path / "s", world, binary=True)
    save_image(root / "images" / "0001.png", np.zeros((50, 50, 3), np.uint8))
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


def test_an_unknown_camera_model_is_reported(tmp_path: Path, world):
    root = write_colmap(tmp_path / "s", world, binary=False)
    path = root / "sparse" / "0" / "cameras.txt"
    path.write_text(f"1 THIN_PRISM_FISHEYE {WIDTH} {HEIGHT} " + "1 " * 12)
    scene = ColmapSource(root).load(ColmapSource(root).scene_ids()[0])
    assert not scene.frames
    assert "image_undistorter" in scene.notes[0]


def test_colmap_images_may_lie_behind_a_link_or_in_a_folder_that_the_user_names(
    tmp_path: Path, world
):
    root = write_colmap(tmp_path / "s", world, binary=False)
    elsewhere = tmp_path / "elsewhere"
    (root / "images").rename(elsewhere)
    source = ColmapSource(root, images=str(elsewhere))
    assert len(source.load(source.scene_ids()[0]).frames) == 3
    (root / "images").symlink_to(elsewhere)
    source = ColmapSource(root)
    scene = source.load(source.scene_ids()[0])
    np.testing.assert_array_equal(scene.frames[2].read().image, world.pixels(2))
    path = root / "sparse" / "0" / "images.txt"
    path.write_text(path.read_text().replace("0001.png", f"{elsewhere}/0001.png"))
    assert len(source.load(source.scene_ids()[0]).frames) == 3


def test_colmap_text_may_have_a_byte_order_mark_and_crlf(tmp_path: Path, world):
    root = write_colmap(tmp_path / "s", world, binary=False)
    for path in (root / "sparse" / "0").glob("*.txt"):
        path.write_text("\ufeff" + path.read_text(), encoding="utf-8", newline="\r\n")
    source = ColmapSource(root)
    scene = source.load(source.scene_ids()[0])
    assert len(scene.frames) == 3
    assert len(scene.frames[0].read().points) > 0


def test_a_second_model_and_images_without_a_pose_are_named(tmp_path: Path, world):
    root = write_colmap(tmp_path / "s", world, binary=True)
    shutil.copytree(root / "sparse" / "0", root / "sparse" / "1")
    save_image(root / "images" / "unposed.png", world.pixels(0))
    source = ColmapSource(root)
    notes = " ".join(source.load(source.scene_ids()[0]).notes)
    assert "model 1 left out" in notes
    assert "1 images without a pose left out, e.g. unposed.png" in notes


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cameras.txt", lambda text: text.replace(f" {WIDTH} ", " 0 ")),
        ("cameras.txt", lambda text: text.replace(f" {WIDTH} ", f" {2**63} ")),
        ("points3D.txt", lambda text: text + f"{2**63} 0 0 0 1 1 1 0.1\n"),
        ("images.txt", lambda text: text.replace("PINHOLE", "")[:-1] + f" 1 1 {2**63}\n"),
    ],
)
def test_colmap_numbers_out_of_range_are_refused_in_one_line(
    tmp_path: Path, world, name: str, change
):
    root = write_colmap(tmp_path / "s", world, binary=False)
    path = root / "sparse" / "0" / name
    path.write_text(change(path.read_text()))
    source = ColmapSource(root)
    with pytest.raises(InputError) as refusal:
        source.load(source.scene_ids()[0])
    assert "\n" not in str(refusal.value)


def turned(pixels: np.ndarray) -> tuple[Image.Image, Image.Exif]:
    """Return pixels as a camera stores them that was held upright: EXIF says how to turn them."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown after a quarter turn clockwise
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels))), exif


def test_exif_is_applied_where_only_the_upright_image_fits_the_camera(tmp_path: Path, world):
    root = write_nerfstudio(tmp_path / "s", world)
    for index in range(3):
        stored, exif = turned(world.pixels(index))
        stored.save(root / "images" / f"frame_{index + 1:05d}.png", exif=exif)
    # The camera of the second one is of the stored pixels, whatever EXIF says.
    image = Image.fromarray(world.pixels(1))
    image.save(root / "images" / "frame_00002.png", exif=exif)
    source = NerfstudioSource(root)
    for index, frame in enumerate(source.load(source.scene_ids()[0]).frames):
        pixels = frame.read()
        np.testing.assert_array_equal(pixels.image, world.pixels(index))
        frame.camera_for(pixels.image.shape[:2])


def test_frames_of_16_bit_keep_one_exposure(tmp_path: Path):
    dim = np.full((64, 64), 20_000, np.uint16)
    lamp = dim.copy()
    lamp[:4, :4] = 65_535
    for name, values in (("dim", dim), ("lamp", lamp)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    dim_8_bit, lamp_8_bit = (read_image(tmp_path / f"{name}.png", name) for name in ("dim", "lamp"))
    assert dim_8_bit.max() == dim_8_bit.min() == round(20_000 / 65_535 * 255)
    np.testing.assert_array_equal(dim_8_bit[4:], lamp_8_bit[4:])
    assert lamp_8_bit[0, 0].tolist() == [255, 255, 255]


def test_the_nerfstudio_export_is_read_back(tmp_path: Path, world):
    for index in range(3):
        save_image(tmp_path / "run" / "views" / f"{index:03d}.png", world.pixels(index))
    cameras = Camera.stack(world.cameras)
    paths = [tmp_path / "run" / "views" / f"{index:03d}.png" for index in range(3)]
    write_transforms(tmp_path / "run" / "cameras" / "transforms.json", cameras, paths)
    for root in (tmp_path / "run", tmp_path / "run" / "cameras"):
        source = NerfstudioSource(root)
        scene = source.load(source.scene_ids()[0])
        assert scene.notes == ()
        for index, (frame, camera) in enumerate(zip(scene.frames, world.cameras, strict=True)):
            assert_same_camera(frame.camera, camera)
            np.testing.assert_array_equal(frame.read().image, world.pixels(index))


def test_absolute_paths_in_transforms_are_read(tmp_path: Path, world):
    root = write_nerfstudio(tmp_path / "s", world)
    content = json.loads((root / "transforms.json").read_text())
    for entry in content["frames"]:
        entry["file_path"] = str((root / entry["file_path"]).absolute())
        entry["depth_file_path"] = str((root / entry["depth_file_path"]).absolute())
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "transforms.json").write_text(json.dumps(content))
    source = NerfstudioSource(tmp_path / "t")
    frames = source.load(source.scene_ids()[0]).frames
    assert len(frames) == 3
    assert frames[0].read().depth_z is not None


def test_nerfstudio_gives_cameras_images_and_depth(tmp_path: Path, world):
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
        ({"file_path": "../../x.png"}, "no such image"),
        ({"file_path": "images/none.png"}, "no such image"),
        ({"file_path": 3}, "no such image"),
        ({"file_path": "a\x00b"}, "no such image"),
        ({"transform_matrix": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}, "scaled by 2"),
        ({"depth_unit_scale_factor": 0}, "above 0"),
        ({"transform_matrix": [[1, 2], [3, 4]]}, "4x4"),
        ({"fl_x": None, "fl_y": None}, "lens is missing"),
        ({"camera_model": "EQUIRECTANGULAR"}, "not supported"),
    ],
)
def test_a_frame_that_cannot_be_used_is_reported(tmp_path: Path, world, change, says: str):
    root = write_nerfstudio(tmp_path / "s", world)
    content = json.loads((root / "transforms.json").read_text())
    content["frames"][1] |= change
    (root / "transforms.json").write_text(json.dumps(content))
    scene = NerfstudioSource(root).load(NerfstudioSource(root).scene_ids()[0])
    assert len(scene.frames) == 2
    assert says in scene.notes[0]


def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path, world):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, read_map):
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path / "pipe.png", "pipe.png")
    root = write_nerfstudio(tmp_path / "s", world)
    (root / "images" / "frame_00002.png").unlink()
    os.mkfifo(root / "images" / "frame_00002.png")
    source = NerfstudioSource(root)
    assert "no such image" in source.load(source.scene_ids()[0]).notes[0]


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


def test_a_folder_without_a_scene_is_reported(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for source in (ColmapSource, NerfstudioSource, PosedSource, ShardSource):
        with pytest.raises(InputError, match="there is no s"):
            source(tmp_path / "empty")
