"""Small CIFAR folders: images under the file names of a replica of the official archive."""

import hashlib
import io

import numpy as np
from PIL import Image

from fasticcl.shards.published_subset import CIFAR, Cifar

TRAIN, TEST = 20, 3
"""Images of each class."""


def png(row):
    """Return the PNG of an image [3072] in the order of the pickles."""
    buffer = io.BytesIO()
    Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def small_cifar(monkeypatch, layout="cifar10-lt", classes=None, in_order=False):
    """Replace a CIFAR dataset by one of 20 + 3 images per class.

    Args:
        monkeypatch: the fixture.
        layout: the layout.
        classes: class names. None: those of the dataset.
        in_order: if True, the order of the file names is that of the images in the archive.

    Returns:
        files by path, pixels [N, 3072] and labels [N] in the order of the archive, and number of test images.
    """
    classes = classes or list(CIFAR[layout].classes)
    rng = np.random.default_rng(7)
    labels = np.concatenate(
        [rng.permutation(np.repeat(np.arange(len(classes)), count)) for count in (TRAIN, TEST)]
    )
    tests = TEST * len(classes)
    pixels = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    numbers = np.arange(len(labels)) if in_order else rng.permutation(len(labels))
    files = {
        f"{split}/{classes[labels[row]]}/{classes[labels[row]][:3]}_s_{numbers[row]:06d}.png": png(
            pixels[row]
        )
        for split, rows in (
            ("train", range(len(labels) - tests)),
            ("test", range(len(labels) - tests, len(labels))),
        )
        for row in rows
    }
    digest = hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()
    monkeypatch.setitem(CIFAR, layout, Cifar(CIFAR[layout].name, classes, TRAIN, TEST, digest))
    return files, pixels, labels, tests
