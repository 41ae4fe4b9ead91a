"""Shards of four classes whose images are damaged after the conversion."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.files import file_sha256
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import INDEX, shard_name
from tests.support.images import encode, noise

COUNTS = [12, 9, 6, 3]  # training images of each class


def write_shards(images: list[bytes], folder: Path) -> Path:
    """Convert the images of all classes, of which the first of each class is also evaluated."""
    labels = np.repeat(range(len(COUNTS)), COUNTS).tolist()
    items = [
        Item(image, label, f"{i}.jpg") for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    val = [Item(images[sum(COUNTS[:k])], k, f"v{k}.jpg") for k in range(len(COUNTS))]
    convert(Source("folder", list("abcd"), {"train": items, "val": val}), folder, shard_size=7)
    return folder


def flip_bit(folder: Path, *rows: int, split: str = "train") -> None:
    """Flip one bit of the images in these rows, which their checksums reveal."""
    for row in rows:
        change_image(
            folder,
            row,
            lambda image: image[:40] + bytes([image[40] ^ 1]) + image[41:],
            split,
            update_checksums=False,
        )


def change_image(
    folder: Path,
    row: int,
    change: Callable[[bytes], bytes],
    split: str = "train",
    update_checksums: bool = True,
) -> None:
    """Change the bytes of an image. If ``update_checksums`` is True, all checksums are updated."""
    index = np.load(folder / split / INDEX)
    shard, offset, size = (int(index[row][name]) for name in ("shard", "offset", "size"))
    path = folder / split / f"{shard_name(shard)}.tar"
    content = path.read_bytes()
    image = change(content[offset : offset + size])
    assert len(image) == size
    assert image != content[offset : offset + size]
    path.write_bytes(content[:offset] + image + content[offset + size :])
    if not update_checksums:
        return
    index["crc32"][row] = zlib.crc32(image)
    np.save(folder / split / INDEX, index)
    manifest = Manifest.read(folder)
    info = manifest.splits[split]
    updated_shards = [
        shard.model_copy(update={"sha256": file_sha256(folder / split / shard.name)}) for shard in info.shards
    ]
    changed = info.model_copy(
        update={"shards": updated_shards, "index_sha256": file_sha256(folder / split / INDEX)}
    )
    manifest.model_copy(update={"splits": {**manifest.splits, split: changed}}).write(folder)


def _padded(start: bytes) -> Callable[[bytes], bytes]:
    return lambda image: (start + bytes(len(image)))[: len(image)]


UNDECODABLE = {
    "random bytes": lambda image: np.random.default_rng(1).bytes(len(image)),
    "zeros": _padded(b""),
    "html": _padded(b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "gif": _padded(b"GIF89a\x10\x00\x10\x00\x80\x00\x00"),
    "header only": lambda image: image[:24] + bytes(len(image) - 24),
    "second half gone": lambda image: image[: len(image) // 2] + bytes(len(image) - len(image) // 2),
}


def make_undecodable(folder: Path, *rows: int, split: str = "train") -> None:
    """Replace the images in these rows by random bytes with valid checksums."""
    for row in rows:
        change_image(folder, row, UNDECODABLE["random bytes"], split)


DAMAGES = {"flipped bit": flip_bit, "undecodable": make_undecodable}
for_each_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


def write_noisy_shards(folder: Path) -> Path:
    """Convert noisy JPEGs of 40 × 44 pixels."""
    rng = np.random.default_rng(0)
    return write_shards([encode(noise(rng, 40, 44), quality=90) for _ in range(sum(COUNTS))], folder)
