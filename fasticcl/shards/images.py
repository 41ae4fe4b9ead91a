"""Encoded images as they come, and as every decoder reads them alike."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fasticcl.errors import UserError

MAX_PIXELS = 64 * 2**20
_LONGEST = 1_000_000  # side in pixels beyond which libpng reads no image
JPEG_QUALITY = 95
SHRUNK_QUALITY = 90
# Pillow knows formats that start other programs; a dataset from a stranger gets none of them.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_JPEGS = ("JPEG", "MPO")
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_DEPTH = 24  # place of the bit depth in a PNG
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # length, kind, no data, checksum
_SMALLEST = 8  # the strongest reduction that a JPEG decoder offers
# The start-of-frame markers of baseline, extended and progressive Huffman JPEG: what every decoder reads.
_COMMON_FRAMES = {0xC0, 0xC1, 0xC2}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA
_JPEG_START = b"\xff\xd8\xff"
_PLAIN_COLORS = ("YCbCr", "Gray")
# A JPEG of its frame, tables, a restart interval, JFIF, Adobe and comments says nothing of a rotation.
_PLAIN_SEGMENTS = _COMMON_FRAMES | {0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE}
# What Pillow's readers raise for damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error)


class UnreadableImage(Exception):
    """An image that cannot be decoded in full; the message is the reason."""


@dataclass(frozen=True)
class Shrink:
    """Images larger than so many pixels are resized and stored as JPEG."""

    side: Literal["short", "long"]
    pixels: int
    quality: int

    def size(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the new height and width, or None for an image that is small enough."""
        measured = min(height, width) if self.side == "short" else max(height, width)
        if measured <= self.pixels:
            return None
        scale = self.pixels / measured
        return max(1, round(height * scale)), max(1, round(width * scale))


def shrink_to(short_side: int | None, max_side: int | None, quality: int | None) -> Shrink | None:
    """Return what the options say about making images smaller; None: nothing.

    Raises:
        UserError: options that do not go together.
    """
    if short_side and max_side:
        raise UserError("Give --short-side or --max-side, not both.")
    if not (short_side or max_side):
        if quality:
            raise UserError(
                "--quality is for images that are made smaller; give --short-side or --max-side too."
            )
        return None
    side: Literal["short", "long"] = "short" if short_side else "long"
    return Shrink(side, short_side or max_side or 0, quality or SHRUNK_QUALITY)


@dataclass(frozen=True)
class SoundImage:
    """An encoded image that decodes to 8-bit RGB or grey exactly as a person would see it."""

    content: bytes
    suffix: str
    height: int
    width: int
    reencoded: str | None
    """Why the original bytes were not kept, or None."""


def prepare(content: bytes, shrink: Shrink | None = None) -> SoundImage:
    """Decode an image in full and return it in a form that every decoder reads alike.

    Sound RGB or grey JPEG and 8-bit PNG keep their bytes. A CMYK or EXIF-rotated JPEG is stored again
    as JPEG, anything else losslessly as PNG: lossy stays lossy, lossless stays lossless. What ``shrink``
    resizes (bicubic, with antialiasing) is stored as JPEG.

    Raises:
        UnreadableImage: bytes that are no image, are cut short or damaged, or would decode to too many
            pixels. A JPEG carries no checksum: damage shows only where it leaves bits that mean nothing.
    """
    with _opened(content) as image:
        sound = _sound_jpeg if image.format in _JPEGS else _sound_other
        return sound(image, content, shrink)


def decode(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels [height, width, 3] of what `prepare` makes of an image, in RGB, for one decoding.

    Raises:
        UnreadableImage: as `prepare` does.
    """
    with suppress(ValueError, LookupError):  # damage is left to the longer way, which names it
        if _is_plain(content):
            return simplejpeg.decode_jpeg(content, "RGB")
    with _opened(content) as image:
        if image.format not in _JPEGS:
            return np.array(_upright_other(image, content)[0].convert("RGB"))
        kept = _why_not_kept(image, content) is None
        return simplejpeg.decode_jpeg(content if kept else _sound_jpeg(image, content, None).content, "RGB")


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image; what its readers raise becomes UnreadableImage."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS or max(image.size) > _LONGEST:
                raise UnreadableImage(f"{image.width}×{image.height} pixels are too many")
            yield image
    except UnidentifiedImageError:
        raise UnreadableImage("not an image" if content else "empty file") from None
    except Image.DecompressionBombError:
        raise UnreadableImage("too many pixels") from None
    except _DAMAGE as error:
        raise UnreadableImage(str(error) or type(error).__name__) from None


def prepared(content: bytes, shrink: Shrink | None = None) -> SoundImage | UnreadableImage:
    """Return what `prepare` returns or raises."""
    try:
        return prepare(content, shrink)
    except UnreadableImage as error:
        return error


def _sound_jpeg(image: Image.Image, content: bytes, shrink: Shrink | None) -> SoundImage:
    reason = _why_not_kept(image, content)
    if reason is None:
        grey = image.mode == "L"
        if shrink and (size := shrink.size(image.height, image.width)):
            pixels = simplejpeg.decode_jpeg(content, "GRAY" if grey else "RGB")
            return _shrunk(pixels, size, shrink)
        # The smallest grey image still takes reading every bit, and that is where damage shows.
        simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=_SMALLEST)
        return SoundImage(content, "jpg", image.height, image.width, None)
    if _is_common(content):  # Pillow alone passes over damage
        simplejpeg.decode_jpeg(content, "CMYK" if image.mode == "CMYK" else "RGB")
    upright = _upright_rgb(image)
    if shrink and (size := shrink.size(upright.height, upright.width)):
        return _shrunk(np.array(upright), size, shrink, reason)
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return SoundImage(buffer.getvalue(), "jpg", upright.height, upright.width, reason)


def _sound_other(image: Image.Image, content: bytes, shrink: Shrink | None) -> SoundImage:
    upright, reason = _upright_other(image, content)
    if shrink and (size := shrink.size(upright.height, upright.width)):
        pixels = np.array(upright)
        return _shrunk(pixels if pixels.ndim == 3 else pixels[:, :, None], size, shrink, reason)
    if reason is None:
        return SoundImage(content, "png", upright.height, upright.width, None)
    buffer = io.BytesIO()
    upright.save(buffer, "PNG")
    return SoundImage(buffer.getvalue(), "png", upright.height, upright.width, reason)


def _upright_other(image: Image.Image, content: bytes) -> tuple[Image.Image, str | None]:
    """Return what is no JPEG upright, in RGB or sound as it is, and why its bytes cannot be kept."""
    if image.format == "PNG":
        image.verify()  # the checksums, which decoding skips
        if _PNG_END not in content:
            raise UnreadableImage("cut short, the end is missing")
        image = Image.open(io.BytesIO(content), formats=("PNG",))
    image.load()
    reason = _why_not_kept(image, content)
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"pixels of mode {image.mode} have no known range")
    return (image if reason is None else _upright_rgb(image)), reason


def _why_not_kept(image: Image.Image, content: bytes) -> str | None:
    jpeg = image.format in _JPEGS
    if not jpeg and image.format != "PNG":
        return f"{image.format} format"
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        return f"{image.format} of mode {image.mode}"
    if jpeg and not _is_common(content):
        return "JPEG of a rare kind"
    if not jpeg and content[_PNG_DEPTH] == 16:
        return "PNG of 16 bits"
    if image.getexif().get(_ORIENTATION, 1) in _TURNS:
        return "EXIF orientation"
    return None


def _is_plain(content: bytes) -> bool:
    """Return whether a JPEG can only be one that keeps its bytes, which takes Pillow longer to say.

    Raises:
        ValueError, LookupError: a header that cannot be read.
    """
    if content[:3] != _JPEG_START or not _PLAIN_SEGMENTS.issuperset(_segments(content)):
        return False
    height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    return colors in _PLAIN_COLORS and int(height) * int(width) <= MAX_PIXELS


def _is_common(content: bytes) -> bool:
    """Return whether a JPEG is Huffman-coded with one of the usual subsamplings of colour."""
    try:
        simplejpeg.decode_jpeg_header(content)
    except (ValueError, LookupError):  # a subsampling that it has no name for
        return False
    frame = next((marker for marker in _segments(content) if marker in _FRAMES), None)
    return frame in _COMMON_FRAMES


def _segments(content: bytes) -> Iterator[int]:
    """Yield the second byte of each marker before a JPEG's first scan; the frame's says how it is encoded."""
    place = 2
    while place + 4 <= len(content):
        marker = content[place + 1]
        if content[place] != 0xFF or marker == 0xFF:
            place += 1  # fill bytes
        elif marker == _SCAN:
            return
        else:
            yield marker
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Return the pixels as they are meant to be seen, and nothing else that came with them."""
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    rgb = _to_rgb(image)
    rgb.info.clear()  # a transparent colour or a profile would be stored again
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16-bit grey, which Pillow would clip instead of scale
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _shrunk(
    pixels: NDArray[np.uint8], size: tuple[int, int], shrink: Shrink, reason: str | None = None
) -> SoundImage:
    small = _resized(pixels, size)
    content = simplejpeg.encode_jpeg(
        small,
        quality=shrink.quality,
        colorspace="GRAY" if small.shape[2] == 1 else "RGB",
        colorsubsampling="Gray" if small.shape[2] == 1 else "420",
    )
    return SoundImage(content, "jpg", *size, reason or f"more than {shrink.pixels} pixels")


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    import torch  # takes over a second to import, and nothing else in a conversion needs it

    # To within one level what Pillow computes, and 3 to 5 times as fast.
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(image, size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())
