"""ImageNet-LT: images of ILSVRC-2012, selected by the lists of Liu et al. (reference 36 of the paper)."""

import hashlib
from array import array
from pathlib import Path

from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.source import ItemList, Source, check_some_file_exists, list_files
from fasticcl.errors import UserError

# Git blob hashes of the published lists, as `git hash-object FILE` prints them.
PUBLISHED = {
    "train": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
    "val": "3ed3188b2f44829ce2dec1cc27040d8d40984088",
    "test": "76a2fb9749d6cd29e765cc4f8c270f2504131e2f",
}
_KAGGLE = "ILSVRC/Data/CLS-LOC"


def read(source: Path, lists: Path | None = None) -> Source:
    """List the images of ImageNet_LT_train.txt, ImageNet_LT_val.txt and ImageNet_LT_test.txt.

    The test list contains the validation images of ILSVRC-2012. ``val/`` may be flat or have a folder for
    each class, whatever the paths in the list. Classes are WordNet ids. A list that differs from the
    published one is accepted with a note.

    Args:
        source: folder that contains train/ and val/ of ILSVRC-2012, or ILSVRC/ of the download from Kaggle.
        lists: folder of the lists, or None for ``source``.

    Raises:
        UserError: a list is missing or unreadable, labels are inconsistent, or there are no images.
    """
    folder = lists or source
    root = source / _KAGGLE if (source / _KAGGLE).is_dir() else source
    listed, notes = {}, []
    for split, published in PUBLISHED.items():
        path = folder / f"ImageNet_LT_{split}.txt"
        content = _read(path)
        listed[split] = _parse(path, content)
        known = published in _blob_hashes(content)
        notes.append(f"{path.name} is {'' if known else 'used, but it is not '}the published list")
    classes = _classes(*listed["train"])
    for split, (names, labels) in listed.items():
        _check_labels(f"ImageNet_LT_{split}.txt", classes, names, labels)
    splits = {split: _list_images(root, classes, *listed[split]) for split in listed}
    for items in splits.values():
        check_some_file_exists(items, root)
    return Source("imagenet-lt", classes, splits, notes=notes)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"Cannot read {path}: {error.strerror}. Specify the folder of the lists with --lists "
            "(for their address run: fasticcl datasets)."
        ) from None


def _blob_hashes(content: bytes) -> set[str]:
    """Return the Git hashes of the file with and without a final newline, because published copies differ."""
    bare = content.rstrip(b"\n")
    return {hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest() for text in (bare, bare + b"\n")}


def _parse(path: Path, content: bytes) -> tuple[list[str], array]:
    names, labels = [], array("q")
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise UserError(f"{path}, line {number}: expected `path label`, got {line[:80]!r}.")
        names.append(name)
        labels.append(int(label))
    if not names:
        raise UserError(f"{path} lists no images. Download the list again.")
    return names, labels


def _classes(names: list[str], labels: array) -> list[str]:
    """Return the WordNet id of each label, from paths like train/n01440764/n01440764_762.JPEG."""
    ids: dict[int, str] = {}
    for name, label in zip(names, labels, strict=True):
        wordnet = Path(name).parent.name
        if ids.setdefault(label, wordnet) != wordnet:
            raise UserError(
                f"ImageNet_LT_train.txt assigns the label {label} to both {ids[label]} and {wordnet}. "
                "Download the list again."
            )
    if sorted(ids) != list(range(len(ids))) or len(set(ids.values())) != len(ids):
        raise UserError(
            "ImageNet_LT_train.txt does not have exactly one label for each class. Download the list again."
        )
    return [ids[label] for label in range(len(ids))]


def _check_labels(file: str, classes: list[str], names: list[str], labels: array) -> None:
    """Check that a list assigns to every image the label of its class folder."""
    known = {wordnet: label for label, wordnet in enumerate(classes)}
    for name, label in zip(names, labels, strict=True):
        folder = Path(name).parent.name
        if label < len(classes) and known.get(folder, label) != label:
            raise UserError(
                f"{file} assigns the label {label} ({classes[label]}) to {name}. Download the list again."
            )


def _list_images(root: Path, classes: list[str], names: list[str], labels: array) -> ItemList:
    if unknown := [label for label in labels if label >= len(classes)]:
        raise UserError(
            f"The val or the test list contains the label {unknown[0]}, which the train list does not. "
            "Download the lists again."
        )
    if names and names[0].startswith("val/"):
        flat = (root / "val" / Path(names[0]).name).is_file()
        names = [
            f"val/{Path(name).name}" if flat else f"val/{classes[label]}/{Path(name).name}"
            for name, label in zip(names, labels, strict=True)
        ]
    return list_files(root, names, labels)


LAYOUT = Layout(
    read=read,
    description="1,000 classes, 115,846 training, 20,000 validation and 50,000 test images of ILSVRC-2012",
    download="ILSVRC2012 train and val from image-net.org (needs an account), and the lists "
    "ImageNet_LT_{train,val,test}.txt from github.com/zhmiao/OpenLongTailRecognition-OLTR",
    licence="ImageNet's terms of access: non-commercial research and education",
    example="fasticcl convert imagenet-lt ILSVRC2012 data/imagenet-lt --lists LISTS",
    options=frozenset({"lists"}),
)
