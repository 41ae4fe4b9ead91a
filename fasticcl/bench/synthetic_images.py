"""Synthetic benchmark images: random, but as costly to decode as photographs.

Each image is a sum of random fields. Finer fields are weaker, as in photographs. Ellipses add sharp edges,
and noise imitates a camera sensor. Constant or smooth images would be cheaper to decode than any dataset.
"""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fasticcl.bench.dataset_sizes import num_classes
from fasticcl.config import Config
from fasticcl.files import file_sha256
from fasticcl.longtail import exponential_counts
from fasticcl.shards.manifest import Manifest, SplitInfo
from fasticcl.shards.reader import INDEX, QUARANTINE
from fasticcl.shards.writer import ShardWriter, member_key
from fasticcl.system.resources import available_cores

WIDTH, HEIGHT = 500, 375  # the most common size in ImageNet
IMBALANCE = 20
_CLASSES = 20  # of a run, if its dataset has as many
_QUALITY = 92  # with this noise about 65 kB on average at 500×375
_PER_SHARD = 500
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class SyntheticImages:
    """Encoded images with long-tailed class counts, sorted by class."""

    contents: Sequence[bytes]
    labels: NDArray[np.int64]
    """[N] class indices, from 0 without gaps."""
    width: int
    height: int
    suffix: str
    """``jpg`` or ``png``."""

    @property
    def mean_bytes(self) -> int:
        """Mean size of an encoded image in bytes."""
        return round(sum(map(len, self.contents)) / len(self.contents))


def generate_images(
    count: int,
    classes: int,
    threads: int,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    png: bool = False,
    distinct: bool = True,
) -> SyntheticImages:
    """Return ``count`` random images or a few more. The same arguments give the same pixels.

    The imbalance ratio is `IMBALANCE`, or lower if there are too few images for it. If ``distinct`` is False,
    all images are the same, which is faster and suffices if they are not decoded.
    """
    largest = 1
    while (counts := exponential_counts(largest, classes, min(largest, IMBALANCE))).sum() < count:
        largest += 1
    labels = np.repeat(np.arange(classes), counts)
    kind = "PNG" if png else "JPEG"
    seeds = range(len(labels) if distinct else 1)
    with ThreadPoolExecutor(threads) as pool:
        contents = list(pool.map(lambda seed: random_image(seed, width, height, kind), seeds))
    contents *= 1 if distinct else len(labels)
    return SyntheticImages(contents, labels, width, height, "png" if png else "jpg")


def generate_run_images(config: Config, count: int, folder: Path, distinct: bool = True) -> SyntheticImages:
    """Write shards of images like those of a run: photographs, or small squares if its crop pads them.

    There are at least as many as in a batch. Decoding them costs as much as decoding those of the dataset.
    """
    square = config.data.crop == "pad"
    width, height = (config.data.image_size,) * 2 if square else (WIDTH, HEIGHT)
    generated = generate_images(
        max(count, config.optim.batch_size),
        min(_CLASSES, num_classes(config.data.dataset)),
        config.engine.workers or available_cores(),
        width=width,
        height=height,
        png=square,
        distinct=distinct,
    )
    write_shards(generated, folder)
    return generated


def random_image(seed: int, width: int = WIDTH, height: int = HEIGHT, kind: str = "JPEG") -> bytes:
    """Return one random image, encoded as ``kind`` (JPEG or PNG)."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128, dtype=np.float32)
    strength, falloff = rng.uniform(40, 80), rng.uniform(0.5, 0.7)
    cells = 2
    while cells < width // 4:
        grey, colour = (_field(rng, cells, width, height, channels) for channels in (1, 3))
        pixels += strength * (0.8 * grey + 0.3 * colour)
        strength, cells = strength * falloff, cells * 2
    image = Image.fromarray(_eight_bit(pixels))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, radius = rng.integers(width), rng.integers(height), rng.integers(2, max(3, width // 8))
        box = [int(x - radius), int(y - radius), int(x + radius), int(y + radius)]
        pen.ellipse(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    noise = rng.standard_normal((height, width, 3), dtype=np.float32) * rng.uniform(4, 10)
    buffer = io.BytesIO()
    Image.fromarray(_eight_bit(np.asarray(image) + noise)).save(buffer, kind, quality=_QUALITY)
    return buffer.getvalue()


def _field(
    rng: np.random.Generator, cells: int, width: int, height: int, channels: int
) -> NDArray[np.float32]:
    """Return smooth noise [height, width, channels] with mean 0 and ``cells`` cells per row."""
    coarse = rng.standard_normal((max(2, cells * height // width), cells, channels), dtype=np.float32)
    fine = [
        np.asarray(Image.fromarray(coarse[..., i]).resize((width, height), Image.Resampling.BILINEAR))
        for i in range(channels)
    ]
    return np.stack(fine, axis=-1)


def _eight_bit(pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
    return pixels.clip(0, 255).astype(np.uint8)


def write_shards(images: SyntheticImages, folder: Path) -> None:
    """Write the images as shards of the dataset ``folder``. The first image of each class is also in ``val``.

    Conversion is bypassed: the images need no check, so a benchmark of training does not need simplejpeg.
    """
    classes = [f"class{label:03d}" for label in range(int(images.labels.max()) + 1)]
    rows = {"train": np.arange(len(images.labels)), "val": np.unique(images.labels, return_index=True)[1]}
    splits = {split: _write_split(images, rows[split], folder / split, len(classes)) for split in _SPLITS}
    (folder / QUARANTINE).write_bytes(b"")
    manifest = Manifest(
        dataset="folder",
        classes=classes,
        splits=splits,
        settings={},
        source_sha256=hashlib.sha256(b"".join(images.contents)).hexdigest(),
        reencoded={},
        quarantined=0,
        quarantine_sha256=hashlib.sha256(b"").hexdigest(),
    )
    manifest.write(folder)


def _write_split(images: SyntheticImages, rows: NDArray[np.int64], folder: Path, classes: int) -> SplitInfo:
    folder.mkdir(parents=True)
    shards, index = [], []
    for number, first in enumerate(range(0, len(rows), _PER_SHARD)):
        writer = ShardWriter(folder, number)
        for row in rows[first : first + _PER_SHARD].tolist():
            key = member_key(row, f"image{row}")
            label = int(images.labels[row])
            writer.add(key, images.suffix, images.contents[row], label, images.height, images.width)
        info, part = writer.close()
        shards.append(info)
        index.append(part)
    np.save(folder / INDEX, np.concatenate(index))
    counts = np.bincount(images.labels[rows], minlength=classes)
    return SplitInfo(class_counts=counts.tolist(), shards=shards, index_sha256=file_sha256(folder / INDEX))


def write_files(images: SyntheticImages, folder: Path) -> None:
    """Write the images to ``folder/train/CLASS/N.jpg``, and the first of each class also to ``val``."""
    firsts = set(np.unique(images.labels, return_index=True)[1].tolist())
    for row, (content, label) in enumerate(zip(images.contents, images.labels.tolist(), strict=True)):
        for split in _SPLITS if row in firsts else _SPLITS[:1]:
            path = folder / split / f"class{label:03d}" / f"{row}.{images.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
