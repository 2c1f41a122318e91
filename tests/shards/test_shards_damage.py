"""Damaged shards: what is whole is read, what is not is told, nothing else happens."""

import io
import os
import tarfile
from pathlib import Path

import made_shards as made
import numpy as np
import pytest
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs.shards.images import ImageDecoder, decode_depth, decode_image, encode_image
from zeronvs.shards.index import build_index, open_index
from zeronvs.shards.writer import ShardDamage, read_shard


def rewritten(path, change):
    """Write a tar again; `change(name, content)` returns (name, content) or None."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            changed = change(name, content)
            if changed is not None:
                member = tarfile.TarInfo(changed[0])
                member.size = len(changed[1])
                tar.addfile(member, io.BytesIO(changed[1]))


def read(path):
    damages: list[ShardDamage] = []
    return list(read_shard(path, damages.append)), damages


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.7, 0.9, 0.97])
def test_a_truncated_shard_gives_its_whole_scenes(kept, tmp_path):
    (path,) = made.simple_shards(tmp_path, 5, per_shard=5)
    whole = [scene.scene_id for scene in read_shard(path)]
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    scenes, damages = read(path)
    assert [scene.scene_id for scene in scenes] == whole[: len(scenes)]
    assert int(5 * kept) - 1 <= len(scenes) < 5
    assert all(len(scene) == 4 for scene in scenes)
    assert len(damages) == 1
    assert "truncated" in damages[0].reason
    assert build_index(path).scene_ids == tuple(scene.scene_id for scene in scenes)
    with pytest.raises(ShardDamage, match="truncated"):
        list(read_shard(path))


def test_an_empty_file_and_noise_are_damage_not_a_stop(tmp_path):
    for name, content in (("a", b""), ("b", b"no tar" * 1000), ("c", bytes(10_240))):
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        scenes, damages = read(path)
        assert scenes == []
        assert len(damages) == (name != "c")  # only end marks: an empty tar
        assert len(build_index(path)) == 0


def test_names_of_strangers_never_leave_the_tar(tmp_path):
    (path,) = made.simple_shards(tmp_path, 1)
    rewritten(path, lambda name, content: (f"../../{name}", content))
    (scene,), damages = read(path)
    assert scene.scene_id == "room/scene000"
    assert damages == []
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("room/scene001/frame000001.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    assert len(read(path)[0]) == 1


@pytest.mark.parametrize("what", [".jpg", "_metadata.json"])
def test_a_frame_that_lacks_something_is_left_out(what, tmp_path):
    (path,) = made.simple_shards(tmp_path, 1)
    rewritten(path, lambda n, c: None if n.endswith(f"2{what}") else (n, c))
    (scene,), damages = read(path)
    assert [frame.name for frame in scene.frames] == ["frame000001", "frame000003", "frame000004"]
    assert len(damages) == 1
    assert damages[0].where == "room/scene000/frame000002"


def test_a_frame_without_depth_is_whole(tmp_path):
    (path,) = made.simple_shards(tmp_path, 1)
    rewritten(path, lambda n, c: None if n.endswith("2_depth.png") else (n, c))
    (scene,), damages = read(path)
    assert scene.depth_z(1) is None
    assert scene.depth_z(0) is not None
    assert damages == []
    assert build_index(path).depth_span[1, 1] == 0


@pytest.mark.parametrize("broken", [b"", b"{}", b"[1]", b"\x00" * 100, b" " * 70_000])
def test_broken_metadata_costs_one_frame(broken, tmp_path):
    (path,) = made.simple_shards(tmp_path, 1)
    rewritten(path, lambda n, c: (n, broken if n.endswith("3_metadata.json") else c))
    (scene,), damages = read(path)
    assert len(scene) == 3
    assert damages
    told: list[ShardDamage] = []
    assert len(open_index(path, on_damage=told.append).number) == 3
    assert len(told) == len(damages)


def test_pictures_that_are_bombs_or_broken_are_refused():
    bomb = bytearray(encode_image(np.zeros((8, 8, 3), np.uint8), "png"))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    whole = encode_image(made.picture(0), "png")
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 0xFF
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    for content in (bytes(bomb), whole[: len(whole) // 2], svg, b"", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(InputError):
            decode_image(content)
        with pytest.raises(InputError):
            ImageDecoder().square(content, "png", 256)
    with pytest.raises(InputError):
        ImageDecoder().square(bytes(middle), "png", 256)
    with pytest.raises(InputError, match="16-bit"):
        decode_depth(whole)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_the_fast_decoder_gives_pillows_pixels(mode):
    decoder, plain = ImageDecoder(), ImageDecoder(fast=False)
    for seed in range(3):
        picture = Image.fromarray(made.picture(seed)).convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        content = buffer.getvalue()
        expected = np.asarray(picture.convert("RGB"))[:, 22:278]
        assert np.array_equal(decoder.square(content, "png", 256), expected)
        assert np.array_equal(plain.square(content, "png", 256), expected)
    jpg = encode_image(made.picture(1), "jpg")
    assert np.array_equal(decoder.square(jpg, "jpg", 256), plain.square(jpg, "jpg", 256))
    assert decoder.square(jpg, "jpg", 64).shape == (64, 64, 3)
    assert decoder.square(jpg, "png", 256).shape == (256, 256, 3)  # a wrong name does not matter


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_span", 1 << 40),
        ("image_span", -1),
        ("scene_start", 1 << 40),
        ("extension", 1 << 40),
        ("camera_to_world", np.nan),
        ("camera_to_world", 2.0),
        ("focal_px", 0.0),
        ("focal_px", np.nan),
        ("principal_px", np.nan),
        ("image_size_px", 65_535),
        ("published_fov_rad", np.inf),
        ("scale_adjustment", -1.0),
        ("radius", np.nan),
        ("depth", -1.0),
        ("depth", 1e30),
        ("aggregate_scale", np.inf),
        ("number", -1),
    ],
)
def test_an_index_that_does_not_fit_is_made_anew(field, value, tmp_path):
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    (path,) = made.simple_shards(tmp_path, 2)
    good = open_index(path)
    stored = path.with_name(path.name + ".index")
    with safe_open(stored, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}
    tensors[field] = torch.full_like(tensors[field], value)
    save_file(tensors, stored, metadata)
    again = open_index(path)
    for name, made_anew in vars(good).items():
        assert np.array_equal(getattr(again, name), made_anew, equal_nan=name == "depth"), name
    stored.write_bytes(b"noise")
    assert open_index(path).scene_ids == good.scene_ids


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = 0, kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    total = 256 + sum(block[:148]) + sum(block[156:512])  # the checksum counts as spaces
    block[148:156] = f"{total:06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        header("room/a/frame000001.png", -512),
        header("room/a/frame000001.png", -1024) + bytes(512),
        header("x", -512, tarfile.GNUTYPE_LONGNAME) + bytes(512),
        header("x", 2**40, tarfile.GNUTYPE_LONGNAME) + bytes(512),
        header("x", 2**40, tarfile.XHDTYPE) + bytes(512),
        header("x", -2, tarfile.XHDTYPE) + bytes(512),
    ],
)
def test_sizes_that_lead_backwards_or_ask_for_all_memory_are_damage(content, tmp_path):
    (path,) = made.simple_shards(tmp_path, 1)
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    path.write_bytes(whole[:end] + content + bytes(10_240))
    scenes, damages = read(path)
    assert len(scenes) <= 1
    assert len(damages) == 1
    assert "\n" not in damages[0].reason


def test_a_named_pipe_in_the_place_of_a_shard_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(InputError, match="not an ordinary file"):
        open_index(tmp_path / "a.tar")
    with pytest.raises(InputError, match="not an ordinary file"):
        list(read_shard(tmp_path / "a.tar"))


def test_an_index_does_not_serve_another_shard_of_its_name(tmp_path):
    (path,) = made.simple_shards(tmp_path, 2)
    open_index(path)
    (other,) = made.write_shards(tmp_path / "other", [made.made_scene("hall/b", 3)])
    path.write_bytes(other.read_bytes())
    assert open_index(path).scene_ids == ("hall/b",)


def test_damage_of_a_whole_shard_names_the_shard_only():
    assert str(ShardDamage(Path("d/a.tar"), "", "is cut short")) == "a.tar: is cut short"
    assert str(ShardDamage(Path("a.tar"), "s/0", "is cut short")) == "a.tar: s/0: is cut short"
