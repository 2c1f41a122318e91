"""Videos and images: what comes back is what went in, and nothing is left half-written."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs.formats.images import contact_sheet, from_bytes, write_image
from zeronvs.formats.video import copy_video, to_bytes, video_facts, write_video


def moving_bar(frames: int = 9, height: int = 32, width: int = 48) -> torch.Tensor:
    video = torch.full((frames, 3, height, width), 0.2)
    for index in range(frames):
        video[index, 0, :, 4 * index : 4 * index + 8] = 0.9
    return video


def read_video(path: Path) -> torch.Tensor:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


def test_a_video_gives_its_frames_back(tmp_path: Path):
    video = moving_bar()
    write_video(tmp_path / "bar.mp4", video, frames_per_second=12)
    back = read_video(tmp_path / "bar.mp4")
    assert back.shape == video.shape
    assert -10 * math.log10(float((back - video).square().mean())) > 25
    with av.open(str(tmp_path / "bar.mp4")) as container:  # a stream lives as long as its container
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 12
        assert float(stream.duration * stream.time_base) == pytest.approx(9 / 12, abs=0.01)


def test_the_same_frames_give_the_same_bytes(tmp_path: Path):
    contents = set()
    for _ in range(8):  # with x264's defaults, two often differed
        write_video(tmp_path / "a.mp4", moving_bar(40))
        contents.add((tmp_path / "a.mp4").read_bytes())
    assert len(contents) == 1


def test_the_index_of_a_video_lies_at_its_front(tmp_path: Path):
    write_video(tmp_path / "bar.mp4", moving_bar())
    content = (tmp_path / "bar.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_odd_sizes_are_cut_to_even_ones(tmp_path: Path):
    write_video(tmp_path / "odd.mp4", moving_bar(3, 33, 47))
    back = read_video(tmp_path / "odd.mp4")
    assert back.shape == (3, 3, 32, 46)


def test_one_frame_is_a_video_and_none_is_not(tmp_path: Path):
    write_video(tmp_path / "one.mp4", moving_bar(1))
    assert len(read_video(tmp_path / "one.mp4")) == 1
    with pytest.raises(ValueError, match="frames"):
        write_video(tmp_path / "none.mp4", moving_bar(0))
    assert [file.name for file in tmp_path.iterdir()] == ["one.mp4"]


def test_an_image_gives_its_pixels_back(tmp_path: Path):
    image = torch.linspace(-0.2, 1.2, 3 * 8 * 10).reshape(3, 8, 10)
    write_image(tmp_path / "folder" / "image.png", image)
    with Image.open(tmp_path / "folder" / "image.png") as opened:
        back = torch.from_numpy(np.array(opened)).permute(2, 0, 1) / 255
    torch.testing.assert_close(back, image.clamp(0, 1), atol=0.5 / 255 + 1e-6, rtol=0)


def test_a_contact_sheet_holds_every_image_in_reading_order():
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 4, 6) / 10
    sheet = contact_sheet(images, columns=3, gap_px=2)
    assert sheet.shape == (3, 4 * 2 + 2, 6 * 3 + 2 * 2)
    assert sheet[0, 0, 0] == 0.0
    assert float(sheet[0, 0, 16]) == pytest.approx(0.2)
    assert float(sheet[0, 6, 8]) == pytest.approx(0.4)
    assert sheet[0, 6, 16] == 1.0


@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_a_contact_sheet_of_any_number_is_wider_than_high(count: int):
    sheet = contact_sheet(torch.zeros(count, 3, 4, 4))
    assert sheet.shape[2] >= sheet.shape[1]


def test_bytes_of_an_image_make_the_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = from_bytes(pixels)
    assert (image.shape, image.dtype) == ((3, 5, 7), torch.float32)
    assert float(image[1, 2, 3]) == pytest.approx(pixels[2, 3, 1] / 255)
    assert np.array_equal(to_bytes(image).permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "h264"), (".webm", "vp9"), (".gif", "gif"), (".MP4", "h264")]
)
def test_ffprobe_finds_the_kind_that_the_suffix_names(suffix: str, codec: str, tmp_path: Path):
    if shutil.which("ffprobe") is None:
        pytest.skip("needs ffprobe, a program of FFmpeg")
    path = tmp_path / f"bar{suffix}"
    write_video(path, moving_bar(10), frames_per_second=20)
    words = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", path]
    found = subprocess.run(words, capture_output=True, check=True, text=True)
    (stream,) = json.loads(found.stdout)["streams"]
    assert (stream["codec_name"], stream["width"], stream["height"]) == (codec, 48, 32)
    assert (stream["r_frame_rate"], stream["nb_read_frames"]) == ("20/1", "10")


@pytest.mark.parametrize("suffix", [".webm", ".gif"])
def test_webm_and_gif_give_their_frames_back(suffix: str, tmp_path: Path):
    video = moving_bar()
    write_video(tmp_path / f"bar{suffix}", video)
    back = read_video(tmp_path / f"bar{suffix}")
    assert back.shape == video.shape
    assert -10 * math.log10(float((back - video).square().mean())) > 25


def test_a_gif_runs_for_ever_and_keeps_odd_sizes(tmp_path: Path):
    write_video(tmp_path / "odd.gif", moving_bar(3, 33, 47), frames_per_second=10)
    with Image.open(tmp_path / "odd.gif") as gif:
        assert (gif.size, gif.n_frames) == ((47, 33), 3)
        assert (gif.info["loop"], gif.info["duration"]) == (0, 100)


def test_a_video_of_another_kind_is_refused_with_the_kinds(tmp_path: Path):
    with pytest.raises(InputError, match=r"\.webm or \.gif, got '\.avi'") as caught:
        write_video(tmp_path / "bar.avi", moving_bar(1))
    assert caught.value.argument == "out"
    assert list(tmp_path.iterdir()) == []


def test_a_copied_video_has_the_same_pictures_and_no_metadata(tmp_path: Path):
    write_video(tmp_path / "plain.mp4", moving_bar())
    with av.open(str(tmp_path / "plain.mp4")) as source:
        with av.open(str(tmp_path / "named.mp4"), "w") as named:
            named.metadata["title"] = "the anchored method"
            stream = named.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    named.mux(packet)
    assert b"the anchored method" in (tmp_path / "named.mp4").read_bytes()
    copy_video(tmp_path / "named.mp4", tmp_path / "copy.mp4")
    assert torch.equal(read_video(tmp_path / "copy.mp4"), read_video(tmp_path / "plain.mp4"))
    assert b"anchored" not in (tmp_path / "copy.mp4").read_bytes()
    facts = video_facts(tmp_path / "copy.mp4")
    assert facts == video_facts(tmp_path / "plain.mp4")
    assert str(facts) == "9 frames of 48x32 px, 24 a second"


def test_only_an_mp4_that_browsers_show_is_copied(tmp_path: Path):
    write_video(tmp_path / "video.webm", moving_bar())
    (tmp_path / "torn.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    for name in ("video.webm", "torn.mp4", "none.mp4"):
        with pytest.raises(InputError, match=name):
            video_facts(tmp_path / name)
