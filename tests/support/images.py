"""Images for tests: photographs that ship with scikit-learn, and small noisy ones."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photographs(count: int, seed: int = 0) -> list[bytes]:
    """JPEGs cut from two photographs, sides between 300 and 560 pixels, portrait and landscape."""
    rng = np.random.default_rng(seed)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    contents = []
    for i in range(count):
        original = originals[i % 2]
        width, height = rng.integers(300, 560), rng.integers(300, 420)
        left, top = rng.integers(0, original.width - width), rng.integers(0, original.height - height + 1)
        cut = original.crop((left, top, left + width, top + height))
        contents.append(encode(cut, quality=90))
    return contents


def noise(rng: np.random.Generator, height: int = 32, width: int = 32) -> Image.Image:
    """A smooth random image with some noise: no two pixels rows alike."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16
    )
    return Image.fromarray((smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))
