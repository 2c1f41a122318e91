"""Writing frames as an MP4 that every player, browser and phone opens."""

from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs._core.files import write_aside

CRF = 16
"""Quality of x264: 0 is lossless, 16 is visually lossless."""


def write_video(
    path: Path, frames: Float[Tensor, "n 3 h w"], *, frames_per_second: int = 24
) -> None:
    """Write an MP4 (H.264, yuv420p, its index at the front), whole or not at all.

    Odd sizes are cut by one pixel: the colour planes have half the resolution.

    Args:
        frames: sRGB in [0, 1]; values outside are clamped.

    Raises:
        ValueError: There is no frame, or frames are smaller than 2 px.
    """
    import av  # loads the libraries of FFmpeg: at the moment of use

    height_px, width_px = frames.shape[-2] // 2 * 2, frames.shape[-1] // 2 * 2
    if len(frames) == 0 or height_px == 0 or width_px == 0:
        raise ValueError(f"a video needs frames of at least 2x2 px, got {tuple(frames.shape)}")
    with (
        write_aside(path) as aside,
        av.open(str(aside), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=frames_per_second)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.time_base = Fraction(1, frames_per_second)
        # A key frame twice a second lets players jump anywhere in a short clip.
        stream.gop_size = max(1, frames_per_second // 2)
        # x264's AVX-512 code of the macroblock tree differs from call to call; plain C does not.
        reproducible = "cpu-independent=1"
        stream.options = {"crf": str(CRF), "preset": "medium", "x264-params": reproducible}
        for frame in frames:
            pixels = to_bytes(frame[:, :height_px, :width_px]).permute(1, 2, 0).contiguous()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24")))
        container.mux(stream.encode(None))


def to_bytes(image: Float[Tensor, "*batch 3 h w"]) -> Tensor:
    """Return images as bytes on the CPU, rounded, clamped; what is not a number becomes black."""
    return (image.detach().float().cpu().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
