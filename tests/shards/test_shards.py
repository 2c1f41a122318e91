"""Shards: what is written is read, by us and as the published reader would."""

import json
import tarfile

import made_shards as made
import numpy as np
import pytest
import torch

from zeronvs._core.errors import InputError
from zeronvs.shards.images import decode_depth, decode_image, encode_depth
from zeronvs.shards.metadata import frame_camera, parse_metadata
from zeronvs.shards.writer import (
    ShardScene,
    ShardWriter,
    encode_frame,
    read_manifest,
    read_shard,
)


@pytest.mark.parametrize("size", [(256, 300), (300, 256), (256, 455), (256, 256)])
@pytest.mark.parametrize("square", [False, True])
def test_a_frame_comes_back_with_its_camera_and_depth(size, square, tmp_path):
    scene = made.made_scene("room/a", size=size, image_format="png", square=square)
    (path,) = made.write_shards(tmp_path, [scene])
    (read,) = read_shard(path)
    top, left = (size[0] - 256) // 2, (size[1] - 256) // 2
    for k in range(len(read)):
        seed = sum(b"room/a") + k
        crop = (slice(top, top + 256), slice(left, left + 256))
        assert np.array_equal(read.image(k).permute(1, 2, 0), made.picture(seed, size)[crop])
        expected = made.camera(k, size).cropped(top, left, 256, 256)
        ours = read.camera(k)
        assert ours.image_size_px == (256, 256)
        torch.testing.assert_close(ours.camera_to_world, expected.camera_to_world.float())
        if square:  # half a pixel is lost where the crop cannot be symmetric
            torch.testing.assert_close(ours.intrinsics_px, expected.intrinsics_px.float())
        torch.testing.assert_close(ours.fov_y_rad, expected.fov_y_rad.float())
        depth = torch.from_numpy(made.depth_map(seed, size)[crop].copy())
        torch.testing.assert_close(read.depth_z(k), depth, rtol=1e-3, atol=0)
        assert read.published_fov_rad == pytest.approx(float(expected.fov_y_rad), rel=1e-5)


def test_our_shards_have_what_the_published_reader_needs(tmp_path):
    (path,) = made.write_shards(tmp_path, [made.made_scene("room/a", image_format="png")])
    with tarfile.open(path) as tar:
        names = tar.getnames()
        metadata = json.load(tar.extractfile("room/a/frame000001_metadata.json"))
    assert names == [
        f"room/a/frame{k:06d}{end}"
        for k in range(1, 5)
        for end in (".png", "_depth.png", "_metadata.json")
    ]
    camera_to_pixel = np.linalg.inv(np.array(metadata["intrinsics"]))
    assert abs(camera_to_pixel[0, 0] - camera_to_pixel[1, 1]) < 1e-5
    fov_rad = 2 * np.arctan2(camera_to_pixel[0, 2], camera_to_pixel[0, 0])
    assert fov_rad == pytest.approx(float(made.camera(0).fov_y_rad), rel=1e-5)
    assert np.linalg.inv(np.array(metadata["extrinsics"])).shape == (4, 4)


@pytest.mark.parametrize("size", [(256, 300), (300, 256)])
def test_both_forms_of_metadata_tell_the_same_camera(size):
    camera = made.camera(3, size)
    co3d = frame_camera(made.co3d_metadata(camera, 1.5), size)
    ours = encode_frame(made.picture(0, size), camera, None, name="frame000001", image_format="png")
    re10k = frame_camera(ours.metadata, size)
    np.testing.assert_allclose(co3d.camera_to_world, re10k.camera_to_world, atol=1e-9)
    np.testing.assert_allclose(co3d.focal_px, re10k.focal_px, rtol=1e-6)
    np.testing.assert_allclose(co3d.principal_px, re10k.principal_px, atol=0.51)
    assert co3d.published_fov_rad == pytest.approx(re10k.published_fov_rad, rel=1e-6)
    assert (co3d.scale_adjustment, re10k.scale_adjustment) == (1.5, 1.0)


def test_intrinsics_of_a_whole_picture_are_moved_to_its_square():
    metadata = {
        "extrinsics": np.eye(4).tolist(),
        "intrinsics": np.linalg.inv([[300.0, 0, 227.5], [0, 300, 128], [0, 0, 1]]).tolist(),
    }
    camera = frame_camera(metadata, (256, 455))
    np.testing.assert_allclose(camera.principal_px, (128.5, 128))
    assert camera.published_fov_rad == pytest.approx(2 * np.arctan(227.5 / 300))


def test_depth_keeps_what_half_precision_keeps():
    depth = np.array([[0.0, 1.2345, 70000.0], [np.nan, -1.0, 1e-3], [5.0, 0.25, 9.0]], np.float32)
    expected = np.array([[0, 1.2345, 0], [0, 0, 1e-3], [5, 0.25, 9]], np.float16)
    assert np.array_equal(decode_depth(encode_depth(depth)), expected.astype(np.float32))


@pytest.mark.parametrize(("image_format", "most"), [("jpg", 12), ("webp", 40)])
def test_lossy_pictures_stay_close(image_format, most):
    frame = encode_frame(
        made.picture(1), made.camera(0), None, name="frame000001", image_format=image_format
    )
    assert frame.image_extension == image_format
    error = decode_image(frame.image).astype(int) - made.picture(1)[:, 22:278]
    assert np.abs(error).mean() < most / 4


def test_metadata_carries_what_training_would_have_to_decode_depth_for():
    frame = made.made_scene("room/a", 1).frames[0]
    own = frame.metadata["zeronvs"]
    depth = decode_depth(frame.depth)
    assert own["aggregate_near"] == pytest.approx(np.quantile(depth[depth > 0], 0.05))
    strided = depth[::4, ::4]
    assert own["viewer_scale"] == pytest.approx(np.quantile(strided[strided > 0], 0.2))


def test_a_frame_that_the_published_reader_cannot_take_is_refused():
    image = made.picture(0, (240, 300))
    with pytest.raises(InputError, match="short side must be 256"):
        encode_frame(image, made.camera(0, (240, 300)), None, name="frame000001")
    camera = made.camera(0)
    off = camera.cropped(0, 9, *made.SIZE)
    with pytest.raises(InputError, match="principal point"):
        encode_frame(made.picture(0), off, None, name="frame000001")
    stretched = camera.resized(256, 330).cropped(0, 15, *made.SIZE)
    with pytest.raises(InputError, match="not square"):
        encode_frame(made.picture(0), stretched, None, name="frame000001")


def test_a_name_that_leads_out_of_the_shard_is_refused(tmp_path):
    scene = made.made_scene("room/a", 1)
    for name in ("../a/b", "room/a/b", "room/..", "room/a b", "room"):
        with pytest.raises(InputError, match="category/scene"), ShardWriter(tmp_path) as writer:
            writer.add(ShardScene(name, scene.frames))
    assert list(tmp_path.glob("*.tar")) == []
    assert list(tmp_path.glob(".*")) == []


def test_a_stopped_conversion_resumes_after_the_last_complete_shard(tmp_path):
    scenes = [made.made_scene(f"room/s{k}", 2) for k in range(5)]

    def stopped_by_hand():
        with ShardWriter(tmp_path, max_scenes_per_shard=2) as writer:
            for scene in scenes[:3]:
                writer.add(scene)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_by_hand()
    with ShardWriter(tmp_path, max_scenes_per_shard=2) as writer:
        assert writer.done_scene_ids == {"room/s0", "room/s1"}
        for scene in scenes:
            if scene.scene_id not in writer.done_scene_ids:
                writer.add(scene)
    stopped = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    straight = tmp_path / "straight"
    with ShardWriter(straight, max_scenes_per_shard=2) as writer:
        for scene in scenes:
            writer.add(scene)
    assert {path.name: path.read_bytes() for path in straight.glob("*.tar")} == stopped
    assert read_manifest(straight) == read_manifest(tmp_path)


def test_the_manifest_lists_the_content_of_the_shards(tmp_path):
    made.simple_shards(tmp_path, 3)
    manifest = read_manifest(tmp_path)
    assert [len(shard.scenes) for shard in manifest.shards] == [2, 1]
    entry = manifest.shards[0].scenes[0]
    assert (entry.scene_id, entry.frames) == ("room/scene000", 4)
    assert entry.fov_y_deg == pytest.approx(np.rad2deg(0.8))
    assert entry.scales["7dof"] > 0
    assert entry.scales["7dof_quantile_scale"] == pytest.approx(1.6, abs=0.2)
    for shard in manifest.shards:
        assert (tmp_path / shard.file).stat().st_size == shard.bytes
    assert read_manifest(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{", '{"format": 2}', '{"format": 1, "split": "a", "source": "b", "shards": 5}',
        '{"format": 1, "split": "a", "source": "b", '
        '"shards": [{"file": "../x.tar", "bytes": 1, "scenes": []}]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"extrinsics": [[1, 0], [0, 1]]}, {"extrinsics": [[2, 0, 0, 0]] * 4},
        {"extrinsics": [[1, 0, 0, "x"], [0, 1, 0, 0], [0, 0, 1, 0]]},
        {"extrinsics": [[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0]]},
        {"intrinsics": [[0, 0, 0]] * 3}, {"intrinsics": None}, {"extrinsics": {}},
        {"intrinsics": [[-0.01, 0, 0], [0, -0.01, 0], [0, 0, 1]]},
    ],
)  # fmt: skip
def test_metadata_that_is_no_camera_is_refused(change):
    frame = made.made_scene("room/a", 1).frames[0]
    with pytest.raises(InputError):
        frame_camera({**frame.metadata, **change}, made.SIZE)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 60_000, b" " * 70_000, b"NaN"])
def test_metadata_that_is_no_object_is_refused(content):
    with pytest.raises(InputError):
        parse_metadata(content)
