"""Anybody's own images: SRC/train/CLASS/*.jpg and SRC/val/CLASS/*.jpg (or test/), or SRC/CLASS/*.jpg."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from fasticcl.convert.layouts.layout import OWN_IMAGES, Layout
from fasticcl.convert.source import Listing, Source, files
from fasticcl.convert.subset import split_validation
from fasticcl.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_LAYOUT = "lay the images out as train/CLASS/image.jpg and val/CLASS/image.jpg (or test/)"


def read(source: Path, val_fraction: float | None = None) -> Source:
    """List the images of a folder of folders; classes are the sub-folders of train/, sorted by name.

    With ``val_fraction`` there need not be a val/ or test/: that share of every class is put aside as val.
    Then the classes may also lie in the folder itself.

    Raises:
        UserError: a missing or unreadable folder, no images, or a class that has no training images.
    """
    names = set(_folders(source))
    evaluated = sorted(names & {"val", "test"})
    if evaluated and val_fraction is not None:
        raise UserError(f"{source} has {evaluated[0]}/ to evaluate on; leave out --val-fraction.")
    if "train" not in names and (evaluated or val_fraction is None):
        raise UserError(f"{source} has no folder train/; {_LAYOUT}, or give --val-fraction 0.1.")
    if not evaluated and val_fraction is None:
        raise UserError(f"{source} has neither val/ nor test/; {_LAYOUT}, or give --val-fraction 0.1.")
    top = (
        {split: source / split for split in ("train", *evaluated)} if "train" in names else {"train": source}
    )
    folders = {split: _folders(folder) for split, folder in top.items()}
    classes = folders["train"]
    for split in evaluated:
        if strangers := sorted(set(folders[split]) - set(classes)):
            raise UserError(
                f"{source / split} has the class {strangers[0]!r}, which train/ does not have; "
                "add or remove it."
            )
    splits = {split: _listing(source, top[split], classes) for split in folders}
    for split, listing in splits.items():
        if not len(listing):
            raise UserError(f"There are no images in {top[split]}; {_LAYOUT}.")
    trained = set(splits["train"].labels.tolist())
    if empty := [name for label, name in enumerate(classes) if label not in trained]:
        raise UserError(
            f"The class {empty[0]!r} has no images in {top['train']}; add some or remove its folder."
        )
    if val_fraction is not None:
        splits["train"], splits["val"] = split_validation(splits["train"], val_fraction)
    settings = {} if val_fraction is None else {"val_fraction": val_fraction}
    return Source("folder", classes, splits, settings=settings)


def _folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, the hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from None


def _listing(source: Path, top: Path, classes: list[str]) -> Listing:
    labels = array("q")

    def names() -> Iterator[str]:
        for label, name in enumerate(classes):
            found = _images(source, top / name)
            labels.extend([label] * len(found))
            yield from found

    return files(source, names(), labels)


def _images(source: Path, folder: Path) -> list[str]:
    """Return the images of one class; they may lie deeper than one level, and sort the same everywhere."""
    if not folder.exists():
        return []  # a split need not have every class
    return sorted(
        os.path.relpath(os.path.join(parent, name), source)
        for parent, _, names in os.walk(folder, onerror=_refuse)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES
    )


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"Cannot read the folder {error.filename}: {error.strerror}.")


LAYOUT = Layout(
    read=read,
    what="your images: train/CLASS/x.jpg and val/CLASS/x.jpg (or test/); CLASS/x.jpg with --val-fraction",
    command="fasticcl convert folder IMAGES data/folder",
    options=OWN_IMAGES,
)
