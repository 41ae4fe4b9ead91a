"""Encoded images as they come, and as every decoder reads them alike."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64 * 2**20
JPEG_QUALITY = 95
# Pillow knows formats that start other programs; a dataset from a stranger gets none of them.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_ORIENTATION = 0x0112  # EXIF tag
_PNG_DEPTH = 24  # place of the bit depth in a PNG


class UnreadableImage(Exception):
    """An image that cannot be decoded in full; the message is the reason."""


@dataclass(frozen=True)
class SoundImage:
    """An encoded image that decodes to 8-bit RGB or grey exactly as a person would see it."""

    content: bytes
    suffix: str
    height: int
    width: int
    reencoded: str | None
    """Why the original bytes were not kept, or None."""


def check_image(content: bytes) -> SoundImage:
    """Decode an image in full and return it in a form that every decoder reads alike.

    Sound RGB or grey JPEG and 8-bit PNG keep their bytes. A CMYK or EXIF-rotated JPEG is stored again
    as JPEG, anything else losslessly as PNG: lossy stays lossy, lossless stays lossless.

    Raises:
        UnreadableImage: bytes that are no image, are cut short, or would decode to too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width}×{image.height} pixels are too many")
            image.load()
            return _sound(image, content)
    except UnidentifiedImageError:
        raise UnreadableImage("not an image" if content else "empty file") from None
    except Image.DecompressionBombError:
        raise UnreadableImage("too many pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnreadableImage(str(error)) from None


def _sound(image: Image.Image, content: bytes) -> SoundImage:
    jpeg = image.format in ("JPEG", "MPO")
    # Pillow is content without the end-of-image marker; DALI is not, and would fail in training.
    if jpeg and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise UnreadableImage("cut short, the end-of-image marker is missing")
    reason = _why_not_kept(image, content, jpeg)
    if reason is None:
        return SoundImage(content, "jpg" if jpeg else "png", image.height, image.width, None)
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"pixels of mode {image.mode} have no known range")
    upright = _to_rgb(ImageOps.exif_transpose(image))
    buffer = io.BytesIO()
    if jpeg:
        upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        upright.save(buffer, "PNG")
    return SoundImage(buffer.getvalue(), "jpg" if jpeg else "png", upright.height, upright.width, reason)


def _why_not_kept(image: Image.Image, content: bytes, jpeg: bool) -> str | None:
    if not jpeg and image.format != "PNG":
        return f"{image.format} format"
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        return f"{image.format} of mode {image.mode}"
    if not jpeg and content[_PNG_DEPTH] == 16:
        return "PNG of 16 bits"
    if image.getexif().get(_ORIENTATION, 1) != 1:
        return "EXIF orientation"
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16-bit grey, which Pillow would clip instead of scale
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
