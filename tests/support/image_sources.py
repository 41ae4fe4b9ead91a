"""Image folders and sources to convert, and the images stored in shards."""

from collections.abc import Container
from pathlib import Path

import numpy as np

from fasticcl.convert.source import Item, Source
from fasticcl.shards.reader import Shards
from tests.support.files import write_files
from tests.support.images import encode, jpegs, noise

_JPEG = encode(noise(np.random.default_rng(0), 48, 64), quality=90)


def write_image_folder(root: Path, train: int = 20, val: int = 4, seed: int = 0, side: int = 24) -> Path:
    """Write images of two classes in the layout `folder`, and return the folder."""
    names = [f"{'train' if i < train else 'val'}/{'ab'[i % 2]}/{i:04d}.jpg" for i in range(train + val)]
    return write_files(root, dict(zip(names, jpegs(train + val, seed, side), strict=True)))


def jpeg_source(
    count: int = 20, broken: Container[int] = (), splits: tuple[str, str] = ("train", "val")
) -> Source:
    """Return a source of ``count`` training images of two classes, of which the first 4 are also evaluated.

    Args:
        count: number of training images.
        broken: positions of the images that cannot be decoded.
        splits: names of the splits.
    """
    items = [
        Item(b"not an image" if i in broken else _JPEG + bytes([i]), i % 2, f"{i}.jpg") for i in range(count)
    ]
    return Source("folder", ["a", "b"], dict(zip(splits, (items, items[:4]), strict=True)))


def stored_images(folder: Path, split: str) -> list[tuple[int, bytes]]:
    """Return the label and the bytes of every image of a split, in the order of the index."""
    shards = Shards(folder, split)
    images = shards.read(np.arange(len(shards)))
    return [
        (label, image.tobytes()) for label, image in zip(shards.index["label"].tolist(), images, strict=True)
    ]
