"""Images and depth maps as bytes in a shard: bounded decoding, encoding.

Images are PNG, JPEG or WebP. Depth maps are 16-bit PNG whose bits are float16 depth along the
optical axis; 0 is unknown. Both are read as their centre square, whose side is the short side.

`ImageDecoder` returns the pixels of `decode_image`, faster: PNG through FFmpeg (PyAV), which undoes
PNG's filters with vector instructions (1.6 times as fast as Pillow), JPEG through libjpeg-turbo's
own interface (simplejpeg, where installed; twice as fast), everything else through Pillow.
"""

import io
import struct
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.optional import require
from zeronvs.cameras.camera import center_window

if TYPE_CHECKING:
    import av

ImageFormat = Literal["png", "jpg", "webp"]
"""Format of a stored image; the names are the extensions. The published reader reads only png."""
IMAGE_EXTENSIONS: tuple[ImageFormat, ...] = ("png", "jpg", "webp")
MAX_IMAGE_BYTES = 64 * 2**20
"""An image in a shard is never larger."""
MAX_SIDE_PX = 8192
"""An image in a shard is never wider or higher."""
PNG_START = b"\x89PNG\r\n\x1a\n"
_PILLOW_NAMES = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
_DEPTH_MODES = ("I;16", "I;16B", "I")
_RGB_8_BIT = b"\x08\x02"
"""Bit depth and colour type, as PNG's header has them."""


def image_size(content: bytes) -> tuple[int, int]:
    """Return (height, width) of an image without decoding it.

    Raises:
        InputError: It is no image of a known format, or too large.
    """
    with _opened(content) as opened:
        return opened.height, opened.width


def decode_image(content: bytes) -> UInt8[np.ndarray, "s s 3"]:
    """Return the centre square of an image.

    Raises:
        InputError: It cannot be decoded.
    """
    with _opened(content) as opened, ReadingErrors("an image cannot be decoded"):
        pixels = np.asarray(opened if opened.mode == "RGB" else opened.convert("RGB"))
    return centre_square(pixels)


def decode_depth(content: bytes) -> Float32[np.ndarray, "s s"]:
    """Return the centre square of a depth map as it is stored; negative and NaN become 0.

    Raises:
        InputError: It cannot be decoded, or is not 16-bit.
    """
    with _opened(content) as opened:
        if opened.mode not in _DEPTH_MODES:
            raise InputError(f"a depth map has mode {opened.mode}, not 16-bit grey")
        with ReadingErrors("a depth map cannot be decoded"):
            pixels = np.asarray(opened)
    bits = np.ascontiguousarray(centre_square(pixels)).astype(np.uint16)
    depth_z = bits.view(np.float16).astype(np.float32)
    return np.where(np.isfinite(depth_z) & (depth_z > 0), depth_z, np.float32(0.0))


def encode_image(
    image: UInt8[np.ndarray, "h w 3"],
    image_format: ImageFormat,
    *,
    quality: int = 95,
) -> bytes:
    """Return an image as bytes.

    Args:
        quality: JPEG and WebP quality, 1 to 100.
    """
    buffer = io.BytesIO()
    settings = {} if image_format == "png" else {"quality": quality}
    Image.fromarray(image).save(buffer, _PILLOW_NAMES[image_format], **settings)
    return buffer.getvalue()


def encode_depth(depth_z: Float[np.ndarray, "h w"]) -> bytes:
    """Return a depth map as bytes; see `round_depth` for what is kept of it."""
    buffer = io.BytesIO()
    bits = round_depth(depth_z).astype(np.float16).view(np.uint16)
    Image.fromarray(bits).save(buffer, "PNG")
    return buffer.getvalue()


def round_depth(depth_z: Float[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Return depth as float16 keeps it; what it cannot hold (and NaN) becomes 0, unknown."""
    largest = float(np.finfo(np.float16).max)
    known = np.isfinite(depth_z) & (depth_z > 0) & (depth_z <= largest)
    return np.where(known, depth_z, 0.0).astype(np.float16).astype(np.float32)


def centre_square(pixels: np.ndarray) -> np.ndarray:
    """Return the centre square of an array (h, w, ...), of its short side, as published."""
    return pixels[center_window(*pixels.shape[:2])]


def _opened(content: bytes) -> Image.Image:
    """Open an image without decoding it; its size and its format are checked."""
    if len(content) > MAX_IMAGE_BYTES:
        raise InputError(f"an image has {len(content)} bytes; at most {MAX_IMAGE_BYTES}")
    with ReadingErrors("an image cannot be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(io.BytesIO(content), formats=list(_PILLOW_NAMES.values()))
    if max(opened.size) > MAX_SIDE_PX or min(opened.size) < 1:
        raise InputError(f"an image is {opened.width}x{opened.height} px; at most {MAX_SIDE_PX}")
    return opened


class ImageDecoder:
    """Decodes centre squares; its decoders stay open, so make one for each process."""

    def __init__(self, *, fast: bool = True) -> None:
        """Open the decoders.

        Args:
            fast: False decodes everything with Pillow.
        """
        self._fast = fast
        self._png: av.VideoCodecContext | None = None
        self._jpeg = _simplejpeg() if fast else None

    def square(
        self, content: bytes, extension: ImageFormat, size_px: int
    ) -> UInt8[np.ndarray, "s s 3"]:
        """Return the centre square of an image at a size.

        Args:
            extension: Format by its name; a hint only.
            size_px: Side of the result. Where the image's short side differs, it is resized.

        Raises:
            InputError: It cannot be decoded.
        """
        if len(content) > MAX_IMAGE_BYTES:
            raise InputError(f"an image has {len(content)} bytes; at most {MAX_IMAGE_BYTES}")
        pixels = None
        if self._fast and extension == "png":
            pixels = self._decode_png(content)
        elif self._jpeg is not None and extension == "jpg":
            pixels = self._decode_jpeg(self._jpeg, content)
        pixels = decode_image(content) if pixels is None else centre_square(pixels)
        return pixels if pixels.shape[0] == size_px else resize_square(pixels, size_px)

    def _decode_png(self, content: bytes) -> np.ndarray | None:
        """Return the pixels of a plain 8-bit RGB PNG; None where Pillow has to decode it."""
        if not content.startswith(PNG_START) or content[24:26] != _RGB_8_BIT:
            return None
        width_px, height_px = struct.unpack(">II", content[16:24])
        if not (0 < width_px <= MAX_SIDE_PX and 0 < height_px <= MAX_SIDE_PX):
            return None
        import av  # loads the libraries of FFmpeg: at the moment of use
        from av.error import FFmpegError

        if self._png is None:
            options = {"err_detect": "crccheck+explode"}
            context = av.CodecContext.create("png", "r")
            assert isinstance(context, av.VideoCodecContext)
            context.thread_count, context.options = 1, options
            self._png = context
        try:
            packet = av.Packet(content)
            packet.is_keyframe = True  # else FFmpeg adds the previous image
            frames = self._png.decode(packet)
        except FFmpegError as error:
            self._png = None
            raise InputError(f"an image cannot be decoded: {error.strerror}") from error
        if len(frames) != 1 or frames[0].format.name != "rgb24":
            self._png = None
            return None
        return frames[0].to_ndarray()

    def _decode_jpeg(self, simplejpeg: ModuleType, content: bytes) -> np.ndarray | None:
        """Return the pixels of a JPEG; None where Pillow has to decode it."""
        try:
            height_px, width_px, space, _ = simplejpeg.decode_jpeg_header(content)
            if max(height_px, width_px) > MAX_SIDE_PX or space not in ("YCbCr", "RGB"):
                return None
            return simplejpeg.decode_jpeg(content, colorspace="RGB")
        except ValueError:
            return None


def resize_square(pixels: UInt8[np.ndarray, "r r 3"], size_px: int) -> UInt8[np.ndarray, "s s 3"]:
    """Resize a square image: the mean of what a pixel covers when it shrinks, else bicubic."""
    shrinks = pixels.shape[0] > size_px
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((size_px, size_px), method)
    return np.asarray(resized)


def _simplejpeg() -> ModuleType | None:
    try:
        return require("simplejpeg", "speed")
    except ImportError:
        return None
