"""RealEstate10K and ACID: text files with frames or videos, and pixelSplat's chunks."""

import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from foreign_files import assert_same_camera, make_world, write_pixelsplat, write_re10k

from zeronvs._core.errors import InputError
from zeronvs.datasets.sources.pixelsplat import PixelSplatSource
from zeronvs.datasets.sources.re10k import Re10kSource

CLIP = "0bf152ef84195293"


@pytest.fixture(scope="module")
def world():
    return make_world(4)


def test_a_clip_with_frames_named_by_time(tmp_path: Path, world):
    write_re10k(tmp_path / "acid", world)
    source = Re10kSource(tmp_path / "acid")
    assert source.scene_ids() == source.scene_ids("train") == [f"acid/{CLIP}"]
    frames = source.load(f"acid/{CLIP}").frames
    for index, (frame, camera) in enumerate(zip(frames, world.cameras, strict=True)):
        assert_same_camera(frame.camera, camera, unit=True)
        pixels = frame.read()
        np.testing.assert_array_equal(pixels.image, world.pixels(index))
        assert_same_camera(frame.camera_for(pixels.image.shape[:2]), camera)


def test_splits_are_folders(tmp_path: Path, world):
    write_re10k(tmp_path, world)
    write_re10k(tmp_path, world, clip="ffff", split="test")
    source = Re10kSource(tmp_path)
    assert [name.split("/")[1] for name in source.scene_ids("test")] == ["ffff"]
    with pytest.raises(InputError, match="no split 'val'; it has: test, train"):
        source.scene_ids("val")


def test_frames_without_an_image_are_noted(tmp_path: Path, world):
    stamps = write_re10k(tmp_path / "x", world)
    (tmp_path / "x" / "frames" / CLIP / f"{stamps[2]}.png").unlink()
    scene = Re10kSource(tmp_path / "x").load(f"x/{CLIP}")
    assert [frame.name for frame in scene.frames] == [str(stamps[k]) for k in (0, 1, 3)]
    assert str(stamps[2]) in scene.notes[0]


def test_a_clip_with_a_video_named_by_its_address(tmp_path: Path, world):
    stamps = write_re10k(tmp_path / "x", world)
    text = tmp_path / "x" / "train" / f"{CLIP}.txt"
    content = text.read_text()
    with av.open(str(tmp_path / "x" / "abcdefghijk.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        stream.bit_rate = 4_000_000
        for index, stamp in enumerate(stamps):
            content = content.replace(str(stamp), str(200_000 * index))
            for _ in range(2):  # each image is shown for two frames of the video
                frame = av.VideoFrame.from_ndarray(world.pixels(index), format="rgb24")
                video.mux(stream.encode(frame))
        video.mux(stream.encode())
    text.write_text(content)
    for path in (tmp_path / "x" / "frames" / CLIP).iterdir():
        path.unlink()
    frames = Re10kSource(tmp_path / "x").load(f"x/{CLIP}").frames
    for index in (0, 1, 3, 2):  # also backwards
        image = frames[index].read().image.astype(float)
        assert np.abs(image - world.pixels(index)).mean() < 12
        others = [np.abs(image - world.pixels(k)).mean() for k in range(4)]
        assert int(np.argmin(others)) == index


@pytest.mark.parametrize(
    "text", ["https://x\n1 2 3\n", "https://x\n" + "x " * 19, "https://x\n1 " + "1 " * 17 + "\n"]
)
def test_a_broken_text_file_is_refused(tmp_path: Path, world, text: str):
    write_re10k(tmp_path / "x", world)
    source = Re10kSource(tmp_path / "x")
    (tmp_path / "x" / "train" / f"{CLIP}.txt").write_text(text)
    with pytest.raises(InputError, match="does not hold RealEstate10K cameras"):
        source.load(f"x/{CLIP}")


def test_chunks_give_cameras_and_images(tmp_path: Path, world):
    write_pixelsplat(tmp_path / "re10k", world, ["aaa", "bbb"])
    source = PixelSplatSource(tmp_path / "re10k")
    assert source.scene_ids("train") == ["re10k/aaa", "re10k/bbb"]
    frames = source.load("re10k/bbb").frames
    assert [frame.name for frame in frames] == ["0", "33367", "66734", "100101"]
    for index, (frame, camera) in enumerate(zip(frames, world.cameras, strict=True)):
        assert_same_camera(frame.camera, camera, unit=True)
        assert np.abs(frame.read().image.astype(float) - world.pixels(index)).mean() < 8


def test_chunks_without_an_index_are_looked_through(tmp_path: Path, world):
    path = write_pixelsplat(tmp_path / "re10k", world, ["aaa", "bbb"])
    (path.parent / "index.json").unlink()
    assert PixelSplatSource(tmp_path / "re10k").scene_ids() == ["re10k/aaa", "re10k/bbb"]


class Trap:
    """A pickle that would write a file."""

    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_a_chunk_that_could_run_code_is_refused(tmp_path: Path, world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_pixelsplat(tmp_path / "re10k", world, ["aaa"])
    torch.save([{"key": "aaa", "cameras": Trap()}], path)
    with pytest.raises(InputError, match="more than plain data"):
        PixelSplatSource(tmp_path / "re10k").load("re10k/aaa")
    path.write_bytes(pickle.dumps([Trap()]))
    with pytest.raises(InputError, match="not a chunk"):
        PixelSplatSource(tmp_path / "re10k").load("re10k/aaa")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": 1}, "not a list of clips"),
        ([{"key": "aaa", "cameras": torch.zeros(3, 12), "images": []}], r"cameras \[n, 18\]"),
        ([{"key": "aaa", "cameras": torch.zeros(3, 18), "images": []}], "but 0 images"),
        ([{"key": "zzz"}], "does not hold"),
    ],
)
def test_a_chunk_of_another_shape_is_refused(tmp_path: Path, world, content, says: str):
    path = write_pixelsplat(tmp_path / "re10k", world, ["aaa"])
    torch.save(content, path)
    with pytest.raises(InputError, match=says):
        PixelSplatSource(tmp_path / "re10k").load("re10k/aaa")


def test_an_index_leads_nowhere_outside(tmp_path: Path, world):
    path = write_pixelsplat(tmp_path / "re10k", world, ["aaa"])
    (path.parent / "index.json").write_text('{"aaa": "../../other.torch"}')
    with pytest.raises(InputError, match="leads out of the folder"):
        PixelSplatSource(tmp_path / "re10k").scene_ids()
