"""The user's own images: SRC/train/CLASS/*.jpg and SRC/val/CLASS/*.jpg (or test/), or SRC/CLASS/*.jpg."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from fasticcl.convert.layouts.layout import OWN_IMAGE_OPTIONS, Layout
from fasticcl.convert.source import ItemList, Source, list_files
from fasticcl.convert.subset import split_validation
from fasticcl.errors import UserError
from fasticcl.shards.images import IMAGE_SUFFIXES

_ADVICE = "Arrange the images as train/CLASS/x.jpg and val/CLASS/x.jpg (or test/)"


def read(source: Path, val_fraction: float | None = None) -> Source:
    """List the images of a folder with one sub-folder per class. Classes are sorted by name.

    Args:
        source: folder that contains train/ and val/, test/ or both. With ``val_fraction`` it contains
            train/ or the class folders.
        val_fraction: fraction of every class to use as val if the folder has neither val/ nor test/.

    Raises:
        UserError: a folder is missing or unreadable, or a split or class has no images.
    """
    names = set(_folders(source))
    evaluated = sorted(names & {"val", "test"})
    if evaluated and val_fraction is not None:
        raise UserError(f"{source} already has {evaluated[0]}/ for evaluation. Leave out --val-fraction.")
    if "train" not in names and (evaluated or val_fraction is None):
        raise UserError(f"{source} has no folder train/. {_ADVICE}, or use --val-fraction 0.1.")
    if not evaluated and val_fraction is None:
        raise UserError(f"{source} has neither val/ nor test/. {_ADVICE}, or use --val-fraction 0.1.")
    split_folders = (
        {split: source / split for split in ("train", *evaluated)} if "train" in names else {"train": source}
    )
    class_folders = {split: _folders(folder) for split, folder in split_folders.items()}
    classes = class_folders["train"]
    for split in evaluated:
        if unknown := sorted(set(class_folders[split]) - set(classes)):
            raise UserError(
                f"{source / split} has the class {unknown[0]!r}, which train/ does not have. "
                "Add it to train/ or remove it."
            )
    splits = {split: _list_images(source, folder, classes) for split, folder in split_folders.items()}
    for split, items in splits.items():
        if not len(items):
            raise UserError(f"There are no images in {split_folders[split]}. {_ADVICE}.")
    trained = set(splits["train"].labels.tolist())
    if empty := [name for label, name in enumerate(classes) if label not in trained]:
        raise UserError(
            f"The class {empty[0]!r} has no images in {split_folders['train']}. "
            "Add some or remove its folder."
        )
    if val_fraction is not None:
        splits["train"], splits["val"] = split_validation(splits["train"], val_fraction)
    settings = {} if val_fraction is None else {"val_fraction": val_fraction}
    return Source("folder", classes, splits, settings=settings)


def _folders(folder: Path) -> list[str]:
    """Return the sorted names of the sub-folders that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from None


def _list_images(source: Path, split_folder: Path, classes: list[str]) -> ItemList:
    labels = array("q")

    def names() -> Iterator[str]:
        for label, name in enumerate(classes):
            images = _images(source, split_folder / name)
            labels.extend([label] * len(images))
            yield from images

    return list_files(source, names(), labels)


def _images(source: Path, folder: Path) -> list[str]:
    """Return the images of one class, including nested folders, in an order that is the same everywhere."""
    if not folder.exists():
        return []  # val and test may lack classes
    return sorted(
        os.path.relpath(os.path.join(parent, name), source)
        for parent, _, names in os.walk(folder, onerror=_raise_user_error)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    )


def _raise_user_error(error: OSError) -> NoReturn:
    raise UserError(f"Cannot read the folder {error.filename}: {error.strerror}.")


LAYOUT = Layout(
    read=read,
    description="your images in train/CLASS/ and val/CLASS/ (or test/), or in CLASS/ with --val-fraction",
    example="fasticcl convert folder IMAGES data/folder",
    options=OWN_IMAGE_OPTIONS,
)
