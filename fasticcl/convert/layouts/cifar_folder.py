"""CIFAR as PNG files with the names in the official archive: SRC/train/CLASS/*.png and SRC/test/CLASS/*.png.

The names do not tell the order of the archive, so the published subset cannot be selected from such a folder.
"""

import hashlib
import os
import shlex
from itertools import chain
from pathlib import Path

import numpy as np

from fasticcl.convert.source import ItemList, Source, list_files
from fasticcl.convert.subset import long_tailed_positions
from fasticcl.errors import UserError
from fasticcl.shards.published_subset import CIFAR, FILE_NAMES_SEED0, Cifar

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_SIZE = (32).to_bytes(4)
_HEADER = _PNG_START + _SIZE + _SIZE + b"\x08\x02"  # height and width, 8 bits, RGB


def is_cifar_folder(source: Path) -> bool:
    """Return True if a folder has one of the sub-folders train/ and test/."""
    return any((source / split).is_dir() for split in ("train", "test"))


def read(source: Path, layout: str, imbalance: int) -> Source:
    """List the test images and a long-tailed subset of the training images.

    The subset has the published class counts. Within each class, the images are sorted by file name and
    shuffled, with one ``RandomState(0)`` for all classes in the order of their labels, and the first are
    taken.

    Args:
        source: folder that contains train/ and test/.
        layout: cifar10-lt or cifar100-lt.
        imbalance: imbalance ratio 100, 50 or 10.

    Raises:
        UserError: images are missing, or they are not those of the official archive.
    """
    cifar = CIFAR[layout]
    names = _split_names(source, cifar)
    if not _are_official(names, cifar):
        raise UserError(
            f"The file names in {source} are not those in the archive of {cifar.name}. Use the archive "
            f"(--download), or choose other images with: fasticcl convert folder {shlex.quote(str(source))} "
            f"DEST --long-tail {imbalance}"
        )
    labels = np.arange(len(cifar.classes))
    items = {
        split: list_files(source, split_names, labels.repeat(len(split_names) // len(labels)).tolist())
        for split, split_names in names.items()
    }
    positions = long_tailed_positions(
        items["train"].labels, len(cifar.classes), imbalance, largest=cifar.images
    )
    items["train"] = items["train"].take(positions)
    for split_items in items.values():
        _check_format(source, split_items, cifar)
    settings = {"imbalance": imbalance}
    return Source(layout, list(cifar.classes), items, settings=settings, subset=FILE_NAMES_SEED0)


def recognise(source: Path) -> str | None:
    """Return the layout whose images a folder contains, judged by their names, or None."""
    for layout, cifar in CIFAR.items():
        try:
            names = _split_names(source, cifar)
        except UserError:
            continue
        if _are_official(names, cifar):
            return layout
    return None


def _are_official(names: dict[str, list[str]], cifar: Cifar) -> bool:
    listed = "\n".join(sorted(chain(*names.values()))).encode("utf-8", "surrogateescape")
    return hashlib.sha256(listed).hexdigest() == cifar.names_sha256


def _split_names(source: Path, cifar: Cifar) -> dict[str, list[str]]:
    """Return the names of all images of both splits, class by class and sorted within each class.

    Raises:
        UserError: the folder does not have the classes and the numbers of images of the dataset.
    """
    counts = {"train": cifar.images, "test": cifar.tests}
    return {split: _image_names(source, split, cifar, count) for split, count in counts.items()}


def _image_names(source: Path, split: str, cifar: Cifar, count: int) -> list[str]:
    advice = (
        f"{cifar.name} has {count:,} of each class in {split}/. Complete the folder or use the archive "
        "(--download)."
    )
    classes = _listing(source / split, advice, folders=True)
    if missing := sorted(set(cifar.classes) - set(classes)):
        other = next((key for key, value in CIFAR.items() if set(value.classes) == set(classes)), None)
        if other:
            raise UserError(f"{source} contains {CIFAR[other].name}. Use the layout {other} for it.")
        raise UserError(f"{source / split} has no folder of the class {missing[0]!r}. {advice}")
    if unknown := sorted(set(classes) - set(cifar.classes)):
        raise UserError(
            f"{source / split} has the class {unknown[0]!r}, which {cifar.name} does not have. Remove it."
        )
    names = []
    for name in cifar.classes:
        images = [file for file in _listing(source / split / name, advice) if file.endswith(".png")]
        if len(images) != count:
            raise UserError(f"{source / split / name} has {len(images):,} PNG images. {advice}")
        names += [f"{split}/{name}/{image}" for image in images]
    return names


def _listing(folder: Path, advice: str, folders: bool = False) -> list[str]:
    """Return the sorted names of the files or sub-folders of a folder that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir() == folders
            )
    except FileNotFoundError:
        raise UserError(f"There is no folder {folder}. {advice}") from None
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from None


def _check_format(source: Path, items: ItemList, cifar: Cifar) -> None:
    """Raise UserError unless the header of every image is that of an RGB PNG of 32 × 32 pixels."""
    for position in range(len(items)):
        path = source / items.name(position)
        try:
            with open(path, "rb") as file:
                header = file.read(len(_HEADER))
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from None
        if header != _HEADER:
            raise UserError(
                f"{path} is not an RGB PNG of 32 × 32 pixels, as all images of {cifar.name} are. Replace the "
                "images by the original ones or use the archive (--download)."
            )
