"""Validation of encoded images, and re-encoding of images that decoders would interpret differently."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fasticcl.shards.image_headers import COMMON_JPEG_FRAMES, JPEG_FRAMES, JPEG_START, jpeg_segments
from fasticcl.shards.shrink import Shrink

MAX_PIXELS = 64 * 2**20
"""Largest accepted image: 67,108,864 pixels, which is 8192 × 8192."""
JPEG_QUALITY = 95
"""Quality of images that are re-encoded as JPEG without shrinking."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
"""Lower-case suffixes of the image files that are searched for in folders and tars."""
_MAX_SIDE = 1_000_000  # in pixels, the limit of libpng
# Pillow also opens formats that start other programs, which is unsafe for datasets from unknown sources.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_JPEG_FORMATS = ("JPEG", "MPO")
_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_DEPTH = 24  # offset of the bit depth in a PNG
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # length, type, no data, checksum
_MAX_REDUCTION = 8  # largest downscaling factor of a JPEG decoder
_PLAIN_COLORS = ("YCbCr", "Gray")
# Frame, tables, restart interval, JFIF, Adobe and comments: none of these segments can hold a rotation.
_PLAIN_SEGMENTS = COMMON_JPEG_FRAMES | {0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE}
# Exceptions that Pillow's readers raise for damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error)


class UnreadableImage(Exception):
    """An image that cannot be decoded completely. The message is the reason."""


@dataclass(frozen=True)
class PreparedImage:
    """An encoded image that every decoder reads as the same upright 8-bit RGB or grey pixels."""

    content: bytes
    suffix: str
    height: int
    width: int
    reencoding_reason: str | None
    """None if the original bytes were kept."""


def prepare(content: bytes, shrink: Shrink | None = None) -> PreparedImage:
    """Decode an image completely and return it in a form that every decoder reads in the same way.

    Intact RGB or grey JPEGs and 8-bit PNGs keep their bytes. JPEGs that are CMYK, EXIF-rotated or of a rare
    kind are re-encoded as JPEG. All other images are converted to 8-bit RGB and stored as PNG. Images that
    ``shrink`` resizes are stored as JPEG.

    Raises:
        UnreadableImage: the bytes are not an image, are truncated or damaged, or would decode to more than
            ``MAX_PIXELS``. JPEG has no checksum, so damage is detected only if it makes the data invalid.
    """
    with _opened(content) as image:
        prepare_format = _prepare_jpeg if image.format in _JPEG_FORMATS else _prepare_other
        return prepare_format(image, content, shrink)


def try_prepare(content: bytes, shrink: Shrink | None = None) -> PreparedImage | UnreadableImage:
    """Call `prepare`, and return its UnreadableImage instead of raising it."""
    try:
        return prepare(content, shrink)
    except UnreadableImage as error:
        return error


def decode(content: bytes) -> NDArray[np.uint8]:
    """Return the RGB pixels [height, width, 3] of the result of `prepare`, with a single decoding.

    Raises:
        UnreadableImage: for the same images as `prepare`.
    """
    with suppress(ValueError, LookupError):  # the slower path below reports the damage
        if _is_plain(content):
            return simplejpeg.decode_jpeg(content, "RGB")
    with _opened(content) as image:
        if image.format not in _JPEG_FORMATS:
            return np.array(_upright_other(image, content)[0].convert("RGB"))
        keeps_bytes = _reencoding_reason(image, content) is None
        return simplejpeg.decode_jpeg(
            content if keeps_bytes else _prepare_jpeg(image, content, None).content, "RGB"
        )


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image, and convert the exceptions of Pillow's readers to UnreadableImage."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS or max(image.size) > _MAX_SIDE:
                raise UnreadableImage(f"{image.width}×{image.height} pixels exceed the size limit")
            yield image
    except UnidentifiedImageError:
        raise UnreadableImage("not an image" if content else "empty file") from None
    except Image.DecompressionBombError:
        raise UnreadableImage("size limit exceeded") from None
    except _DAMAGE as error:
        raise UnreadableImage(str(error) or type(error).__name__) from None


def _prepare_jpeg(image: Image.Image, content: bytes, shrink: Shrink | None) -> PreparedImage:
    reason = _reencoding_reason(image, content)
    if reason is None:
        grey = image.mode == "L"
        if shrink and (size := shrink.new_size(image.height, image.width)):
            pixels = simplejpeg.decode_jpeg(content, "GRAY" if grey else "RGB")
            return _shrunk(pixels, size, shrink)
        # Decoding to the smallest grey image still reads every bit, which is enough to detect damage.
        simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=_MAX_REDUCTION)
        return PreparedImage(content, "jpg", image.height, image.width, None)
    if _is_common(content):  # Pillow alone ignores damage
        simplejpeg.decode_jpeg(content, "CMYK" if image.mode == "CMYK" else "RGB")
    upright = _upright_rgb(image)
    if shrink and (size := shrink.new_size(upright.height, upright.width)):
        return _shrunk(np.array(upright), size, shrink, reason)
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return PreparedImage(buffer.getvalue(), "jpg", upright.height, upright.width, reason)


def _prepare_other(image: Image.Image, content: bytes, shrink: Shrink | None) -> PreparedImage:
    upright, reason = _upright_other(image, content)
    if shrink and (size := shrink.new_size(upright.height, upright.width)):
        pixels = np.array(upright)
        return _shrunk(pixels if pixels.ndim == 3 else pixels[:, :, None], size, shrink, reason)
    if reason is None:
        return PreparedImage(content, "png", upright.height, upright.width, None)
    buffer = io.BytesIO()
    upright.save(buffer, "PNG")
    return PreparedImage(buffer.getvalue(), "png", upright.height, upright.width, reason)


def _shrunk(
    pixels: NDArray[np.uint8], size: tuple[int, int], shrink: Shrink, reason: str | None = None
) -> PreparedImage:
    content = shrink.encode(pixels, size)
    return PreparedImage(content, "jpg", *size, reason or f"more than {shrink.pixels} pixels")


def _upright_other(image: Image.Image, content: bytes) -> tuple[Image.Image, str | None]:
    """Return a non-JPEG image in upright orientation, and the reason to re-encode it, or None."""
    if image.format == "PNG":
        image.verify()  # the checksums, which decoding ignores
        if _PNG_END not in content:
            raise UnreadableImage("truncated PNG without IEND")
        image = Image.open(io.BytesIO(content), formats=("PNG",))
    image.load()
    reason = _reencoding_reason(image, content)
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"pixels of mode {image.mode} have no known range")
    return (image if reason is None else _upright_rgb(image)), reason


def _reencoding_reason(image: Image.Image, content: bytes) -> str | None:
    """Return why the bytes of an image cannot be kept, or None. The manifest counts images by reason."""
    jpeg = image.format in _JPEG_FORMATS
    if not jpeg and image.format != "PNG":
        return f"{image.format} format"
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        return f"{image.format} of mode {image.mode}"
    if jpeg and not _is_common(content):
        return "JPEG of a rare kind"
    if not jpeg and content[_PNG_DEPTH] == 16:
        return "PNG of 16 bits"
    if image.getexif().get(_ORIENTATION, 1) in _TRANSPOSES:
        return "EXIF orientation"
    return None


def _is_plain(content: bytes) -> bool:
    """Return True if a JPEG certainly keeps its bytes. This check is faster than opening it with Pillow.

    Raises:
        ValueError, LookupError: the header cannot be parsed.
    """
    if not content.startswith(JPEG_START):
        return False
    if not _PLAIN_SEGMENTS.issuperset(marker for marker, _ in jpeg_segments(content)):
        return False
    height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    return colors in _PLAIN_COLORS and int(height) * int(width) <= MAX_PIXELS


def _is_common(content: bytes) -> bool:
    """Return True if a JPEG is Huffman-coded with one of the usual chroma subsamplings."""
    try:
        simplejpeg.decode_jpeg_header(content)
    except (ValueError, LookupError):  # a subsampling that simplejpeg does not know
        return False
    frame = next((marker for marker, _ in jpeg_segments(content) if marker in JPEG_FRAMES), None)
    return frame in COMMON_JPEG_FRAMES


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Return the pixels in RGB with the EXIF orientation applied, without any metadata."""
    transpose = _TRANSPOSES.get(image.getexif().get(_ORIENTATION, 1))
    rgb = _to_rgb(image)
    rgb.info.clear()  # saving would write the transparent colour or the profile
    return rgb if transpose is None else rgb.transpose(transpose)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16-bit grey, which Pillow would clip instead of scale
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
