"""Encoded and random images: crops of the photographs in scikit-learn, and small noisy images."""

import io
import struct

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return the encoded image. The options are those of `PIL.Image.Image.save`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photographs(count: int, seed: int = 0) -> list[bytes]:
    """Return JPEG crops of two photographs, portrait and landscape, with sides of 300 to 560 pixels."""
    rng = np.random.default_rng(seed)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    contents = []
    for i in range(count):
        original = originals[i % 2]
        width, height = rng.integers(300, 560), rng.integers(300, 420)
        left, top = rng.integers(0, original.width - width), rng.integers(0, original.height - height + 1)
        crop = original.crop((left, top, left + width, top + height))
        contents.append(encode(crop, quality=90))
    return contents


def noise(rng: np.random.Generator, height: int = 32, width: int = 32) -> Image.Image:
    """Return a smooth random image with some noise, in which all rows of pixels differ."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16
    )
    return Image.fromarray((smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


def jpegs(count: int, seed: int = 0, side: int = 24) -> list[bytes]:
    """Return different small JPEGs quickly: up to 24 noisy images, each with a different comment."""
    rng = np.random.default_rng(seed)
    images = [encode(noise(rng, side, side), quality=75) for _ in range(min(count, 24))]
    contents = []
    for i in range(count):
        image, comment = images[i % len(images)], b"%d of %d" % (i, seed)
        segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
        contents.append(image[:2] + segment + image[2:])
    return contents
