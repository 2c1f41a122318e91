"""CO3D: the files that its own tools write."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from foreign_files import HEIGHT, assert_same_camera, make_world, write_co3d

from zeronvs._core.errors import InputError
from zeronvs.datasets.sources.co3d import Co3dSource

SCENE = "apple/110_13051_23361"


@pytest.fixture(scope="module")
def world():
    return make_world(3)


@pytest.mark.parametrize("ndc", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_cameras_come_back_in_both_ndc_conventions(tmp_path: Path, world, ndc: str):
    source = Co3dSource(write_co3d(tmp_path, world, ndc=ndc))
    assert source.scene_ids() == [SCENE]
    frames = source.load(SCENE).frames
    assert len(frames) == 3
    for frame, camera in zip(frames, world.cameras, strict=True):
        assert_same_camera(frame.camera, camera)


def test_depth_is_scaled_and_masked(tmp_path: Path, world):
    pixels = Co3dSource(write_co3d(tmp_path, world)).load(SCENE).frames[1].read()
    assert pixels.depth_z is not None
    assert not pixels.depth_z[:10].any()
    np.testing.assert_allclose(pixels.depth_z[10:], world.depth_z(1)[10:], rtol=1e-3)
    np.testing.assert_array_equal(pixels.image, world.pixels(1))
    assert pixels.foreground is not None
    assert pixels.foreground[:10].max() == 0
    assert pixels.foreground[10:].min() == 1


def test_splits_come_from_the_set_lists(tmp_path: Path, world):
    source = Co3dSource(write_co3d(tmp_path, world))
    assert len(source.load(SCENE, "train").frames) == 2
    assert len(source.load(SCENE, "val").frames) == 1
    with pytest.raises(InputError, match="no split 'dev'"):
        source.scene_ids("dev")
    with pytest.raises(InputError, match="no sequence"):
        source.scene_ids("test")


def test_one_category_can_be_given_alone(tmp_path: Path, world):
    root = write_co3d(tmp_path, world)
    assert Co3dSource(root / "apple").scene_ids() == [SCENE]


def test_annotations_are_read_frame_by_frame_and_the_index_is_kept(tmp_path: Path, world):
    root = write_co3d(tmp_path / "data", world)
    path = root / "apple" / "frame_annotations.jgz"
    with gzip.open(path, "rt") as handle:
        frames = json.load(handle)
    filler = [{"sequence_name": f"s{k % 7}", "pad": "x" * 5000} for k in range(700)]  # 3.5 MB
    with gzip.open(path, "wt") as handle:
        handle.write(json.dumps(filler[:400] + frames + filler[400:], indent=1))
    source = Co3dSource(root, index_dir=tmp_path / "index")
    assert len(source.scene_ids()) == 8
    assert len(source.load(SCENE).frames) == 3
    assert len(source.load("apple/s0").notes) == 100  # all broken, each told
    written = (tmp_path / "index" / "apple.jsonl").stat().st_mtime_ns
    assert len(Co3dSource(root, index_dir=tmp_path / "index").load(SCENE).frames) == 3
    assert (tmp_path / "index" / "apple.jsonl").stat().st_mtime_ns == written


def test_a_path_that_leaves_the_folder_is_left_out(tmp_path: Path, world):
    root = write_co3d(tmp_path / "data", world)
    path = root / "apple" / "frame_annotations.jgz"
    with gzip.open(path, "rt") as handle:
        frames = json.load(handle)
    frames[0]["image"]["path"] = "../../secret.png"
    frames[1]["depth"]["path"] = "/etc/passwd"
    with gzip.open(path, "wt") as handle:
        json.dump(frames, handle)
    scene = Co3dSource(root).load(SCENE)
    assert len(scene.frames) == 2
    assert "leads out of the folder" in scene.notes[0]
    with pytest.raises(InputError, match="leads out of the folder"):
        scene.frames[0].read()


@pytest.mark.parametrize("damage", ["cut", "not gzip", "an object"])
def test_damaged_annotations_are_refused_in_one_line(tmp_path: Path, world, damage: str):
    root = write_co3d(tmp_path, world)
    path = root / "apple" / "frame_annotations.jgz"
    content = path.read_bytes()
    broken = {"cut": content[: len(content) // 2], "not gzip": b"[]"}
    path.write_bytes(broken.get(damage) or gzip.compress(b'{"a": 1}'))
    with pytest.raises(InputError) as caught:
        Co3dSource(root).scene_ids()
    assert "\n" not in str(caught.value)


def test_annotations_that_unpack_without_end_are_refused(tmp_path: Path, world):
    root = write_co3d(tmp_path, world)
    with gzip.open(root / "apple" / "frame_annotations.jgz", "wb") as handle:
        handle.write(b"[")
        for _ in range(200):
            handle.write(b'{"sequence_name": "s", "pad": 0},' + b" " * 100_000)
    with pytest.raises(InputError, match="when unpacked"):
        Co3dSource(root).scene_ids()


def test_images_behind_a_link_are_read(tmp_path: Path, world):
    root = write_co3d(tmp_path / "data", world)
    (root / "apple" / "110_13051_23361").rename(tmp_path / "elsewhere")
    (root / "apple" / "110_13051_23361").symlink_to(tmp_path / "elsewhere")
    assert Co3dSource(root).load(SCENE).frames[0].read().depth_z is not None


def test_white_background_needs_the_mask(tmp_path: Path, world):
    from zeronvs.datasets.framing import choose_frames, load_frames

    scene = Co3dSource(write_co3d(tmp_path, world)).load(SCENE)
    shown = list(load_frames(*choose_frames(scene, []), [], background="white"))
    top = 4 * 256 // HEIGHT
    assert shown[0].image[:top].min() == 255
    assert not shown[0].depth_z[:top].any()
    assert shown[0].depth_z[-30:].all()
