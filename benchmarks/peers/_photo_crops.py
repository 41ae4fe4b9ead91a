"""Input images of the loader benchmarks: noisy crops of photographs, with long-tailed class counts.

Peers may run in an environment without fasticcl, so this module does not import it.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

CLASSES, IMBALANCE = 20, 20
WIDTH, HEIGHT = 500, 375  # the most common size in ImageNet
NOISE = 3.5  # standard deviation. Enlarged crops without noise would decode faster than photographs.
QUALITY = 93  # about 70 kB at this size and noise

RECORD = "images.json"


def write_jpegs(folder: Path, least: int) -> dict[str, Any]:
    """Write JPEGs to ``folder``/train/CLASS/NUMBER.jpg unless they exist, and return their facts.

    Args:
        folder: destination. The first image of each class is also written to ``val``, which converters need.
        least: minimum number of images.
    """
    record = folder / RECORD
    if not record.exists():
        counts = long_tail(least)
        sizes = _write(folder, counts)
        facts = {"count": sum(counts), "classes": CLASSES, "imbalance": IMBALANCE}
        facts |= {"width": WIDTH, "height": HEIGHT, "mean_bytes": round(float(np.mean(sizes)))}
        record.write_text(json.dumps(facts), encoding="utf-8")  # written last, to mark the images as complete
    return json.loads(record.read_text(encoding="utf-8"))


def long_tail(least: int) -> list[int]:
    """Return exponentially decreasing class counts with a sum of at least ``least``, as in fasticcl."""
    largest, counts = IMBALANCE, [0]
    while sum(counts) < least:
        shares = IMBALANCE ** -np.linspace(0, 1, CLASSES)
        counts = np.floor(largest * shares + 1e-9).astype(int).tolist()
        largest += 1
    return counts


def _write(folder: Path, counts: list[int]) -> list[int]:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    sizes = []
    for label, count in enumerate(counts):
        for number in range(count):
            content = _random_jpeg(photographs[rng.integers(len(photographs))], rng)
            for split in ("train", "val") if number == 0 else ("train",):
                path = folder / split / f"{label:02}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            sizes.append(len(content))
    return sizes


def _random_jpeg(photograph: Any, rng: np.random.Generator) -> bytes:
    """Return a random crop of a photograph, resized and with sensor-like noise."""
    from PIL import Image

    width = int(rng.uniform(0.5, 1) * min(photograph.width, photograph.height * WIDTH / HEIGHT))
    height = width * HEIGHT // WIDTH
    left = int(rng.integers(photograph.width - width + 1))
    top = int(rng.integers(photograph.height - height + 1))
    box = (left, top, left + width, top + height)
    window = photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
    noisy = np.asarray(window) + rng.normal(0, NOISE, (HEIGHT, WIDTH, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
