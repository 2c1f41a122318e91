"""Writing frames as MP4 (every player, browser and phone), WebM or GIF; copying an MP4."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.files import write_aside

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer

CRF = 16
"""Quality of x264: 0 is lossless, 16 is visually lossless."""
SUFFIXES = (".mp4", ".webm", ".gif")
MAX_FRAMES = 10_000
"""Of a video that is read."""


def check_video_suffix(path: Path) -> None:
    """Refuse the name of a video whose suffix is none of `SUFFIXES`.

    Raises:
        InputError: It is another one.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path.name} should end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, "
            f"got {path.suffix or 'no suffix'!r}",
            argument="out",
        )


def write_video(
    path: Path, frames: Float[Tensor, "n 3 h w"], *, frames_per_second: int = 24
) -> None:
    """Write a video, whole or not at all; the suffix of the path chooses the kind.

    ".mp4": H.264, yuv420p, its index at the front. ".webm": VP9, for web pages. ".gif": 256
    colours, runs for ever, for places that show no videos. Of MP4 and WebM, odd sizes are
    cut by one pixel: the colour planes have half the resolution.

    Args:
        path: Where to.
        frames: sRGB in [0, 1]; values outside are clamped.
        frames_per_second: 50 at most for GIF, whose unit is a hundredth of a second.

    Raises:
        InputError: The suffix is unknown.
        ValueError: There is no frame, or frames are smaller than 2 px.
    """
    check_video_suffix(path)
    height_px, width_px = frames.shape[-2] // 2 * 2, frames.shape[-1] // 2 * 2
    if len(frames) == 0 or height_px == 0 or width_px == 0:
        raise ValueError(f"a video needs frames of at least 2x2 px, got {tuple(frames.shape)}")
    with write_aside(path) as aside:
        if path.suffix.lower() == ".gif":
            _write_gif(aside, frames, frames_per_second)
        else:
            _write_stream(aside, frames[..., :height_px, :width_px], frames_per_second)


def _write_stream(aside: Path, frames: Float[Tensor, "n 3 h w"], frames_per_second: int) -> None:
    import av  # loads the libraries of FFmpeg: at the moment of use

    mp4 = aside.suffix.lower() == ".mp4"
    container_options = {"movflags": "+faststart"} if mp4 else {}
    with av.open(
        str(aside), "w", format="mp4" if mp4 else "webm", options=container_options
    ) as container:
        stream = container.add_stream(
            "libx264" if mp4 else "libvpx-vp9", rate=frames_per_second, options=_coding(mp4)
        )
        stream.height, stream.width = frames.shape[-2:]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, frames_per_second)
        # A key frame twice a second lets players jump anywhere in a short clip.
        stream.gop_size = max(1, frames_per_second // 2)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(_rows(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _coding(mp4: bool) -> dict[str, str]:
    """Return the options of the encoder."""
    if mp4:
        # x264's AVX-512 code of the macroblock tree differs from call to call; plain C does not.
        return {"crf": str(CRF), "preset": "medium", "x264-params": "cpu-independent=1"}
    return {"crf": str(2 * CRF), "b": "0", "row-mt": "1", "deadline": "good", "cpu-used": "4"}


def _write_gif(aside: Path, frames: Float[Tensor, "n 3 h w"], frames_per_second: int) -> None:
    pictures = [Image.fromarray(_rows(frame)) for frame in frames]
    # One palette for all frames, made of a few of them: colours do not flicker.
    few = frames[:: max(1, len(frames) // 8)]
    palette = Image.fromarray(_rows(torch.cat(list(few), dim=-2))).quantize(256)
    first, *rest = [picture.quantize(palette=palette) for picture in pictures]
    duration_ms = max(20, 10 * round(100 / frames_per_second))
    first.save(aside, save_all=True, append_images=rest, duration=duration_ms, loop=0)


def _rows(frame: Float[Tensor, "3 h w"]) -> np.ndarray:
    return to_bytes(frame).permute(1, 2, 0).contiguous().numpy()


def to_bytes(image: Float[Tensor, "*batch 3 h w"]) -> Tensor:
    """Return images as bytes on the CPU, rounded, clamped; what is not a number becomes black."""
    return (image.detach().float().cpu().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)


@dataclass(frozen=True)
class VideoFacts:
    """What two videos must share to be compared."""

    frames: int
    height_px: int
    width_px: int
    frames_per_second: Fraction

    def __str__(self) -> str:
        """Return a phrase for messages."""
        speed = float(self.frames_per_second)
        return f"{self.frames} frames of {self.width_px}x{self.height_px} px, {speed:.4g} a second"


def video_facts(path: Path) -> VideoFacts:
    """Return size and length of an MP4 that every browser shows.

    Raises:
        InputError: It is missing, or no MP4 with H.264 pictures of at most `MAX_FRAMES` frames.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    with _reading(path) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name != "h264" or stream.codec_context.pix_fmt != "yuv420p":
            raise InputError(f"{path} is not H.264 with yuv420p; browsers may not show it")
        frames = sum(1 for _ in itertools.islice(_packets(container), MAX_FRAMES + 1))
        if not 0 < frames <= MAX_FRAMES:
            raise InputError(f"{path} has {frames} or more frames; 1 to {MAX_FRAMES} are taken")
        rate = stream.average_rate or Fraction(0)
        return VideoFacts(frames, stream.height, stream.width, Fraction(rate))


def copy_video(source: Path, out: Path) -> None:
    """Copy the pictures of an MP4 as they are, without its sound and its metadata.

    Raises:
        InputError: It cannot be read.
    """
    import av

    with write_aside(out) as aside, _reading(source) as container:
        options = {"movflags": "+faststart"}
        with av.open(str(aside), "w", format="mp4", options=options) as copy:
            stream = copy.add_stream_from_template(container.streams.video[0])
            stream.metadata.clear()
            for packet in _packets(container):
                packet.stream = stream
                copy.mux(packet)


@contextmanager
def _reading(path: Path) -> "Iterator[InputContainer]":
    """Open an MP4 and nothing else: playlists would open other files."""
    import av
    from av.error import FFmpegError

    with ReadingErrors(f"{path} is no usable MP4", FFmpegError, IndexError):
        with av.open(str(path), format="mp4") as container:
            yield container


def _packets(container: "InputContainer") -> "Iterator[Packet]":
    """Yield the packets of the pictures, without the empty one at the end."""
    return (packet for packet in container.demux(video=0) if packet.dts is not None)
