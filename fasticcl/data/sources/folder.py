"""Anybody's own images: SRC/train/CLASS/*.jpg and SRC/val/CLASS/*.jpg (or test/)."""

from pathlib import Path

from fasticcl.data.sources import Item, Source
from fasticcl.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_LAYOUT = "lay the images out as train/CLASS/image.jpg and val/CLASS/image.jpg (or test/)"


def read(source: Path) -> Source:
    """List the images of a folder of folders; classes are the sub-folders of train/, sorted by name.

    Raises:
        UserError: a missing or unreadable folder, no images, or a class that has no training images.
    """
    try:
        names = {path.name for path in source.iterdir() if path.is_dir()}
    except OSError as error:
        raise UserError(f"Cannot read the folder {source}: {error.strerror}.") from None
    if "train" not in names:
        raise UserError(f"{source} has no folder train/; {_LAYOUT}.")
    evaluated = sorted(names & {"val", "test"})
    if not evaluated:
        raise UserError(f"{source} has neither val/ nor test/; {_LAYOUT}.")
    folders = {split: _class_folders(source / split) for split in ["train", *evaluated]}
    classes = sorted(folders["train"])
    for split in evaluated:
        if strangers := sorted(set(folders[split]) - set(classes)):
            raise UserError(
                f"{source / split} has the class {strangers[0]!r}, which train/ does not have; "
                "add or remove it."
            )
    splits = {split: _items(source, found, classes) for split, found in folders.items()}
    for split, items in splits.items():
        if not items:
            raise UserError(f"There are no images in {source / split}; {_LAYOUT}.")
    trained = {item.label for item in splits["train"]}
    if empty := [name for label, name in enumerate(classes) if label not in trained]:
        raise UserError(
            f"The class {empty[0]!r} has no images in {source / 'train'}; add some or remove its folder."
        )
    return Source("folder", classes, splits)


def _class_folders(split: Path) -> dict[str, Path]:
    try:
        return {
            path.name: path for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")
        }
    except OSError as error:
        raise UserError(f"Cannot read the folder {split}: {error.strerror}.") from None


def _items(source: Path, folders: dict[str, Path], classes: list[str]) -> list[Item]:
    items = []
    for label, name in enumerate(classes):
        if name not in folders:
            continue
        # Images may lie deeper than one level; names sort the same on every machine.
        for path in sorted(folders[name].rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                items.append(Item(path, label, path.relative_to(source).as_posix()))
    return items
