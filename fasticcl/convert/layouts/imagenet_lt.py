"""ImageNet-LT: images of ILSVRC-2012, chosen by the lists of Liu et al. (the paper's [36])."""

import hashlib
from array import array
from pathlib import Path

from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.source import Listing, Source, files, some_file_exists
from fasticcl.errors import UserError

# git blob hashes of the lists as they were published; `git hash-object FILE` prints the same.
PUBLISHED = {
    "train": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
    "val": "3ed3188b2f44829ce2dec1cc27040d8d40984088",
    "test": "76a2fb9749d6cd29e765cc4f8c270f2504131e2f",
}
_KAGGLE = "ILSVRC/Data/CLS-LOC"


def read(source: Path, lists: Path | None = None) -> Source:
    """List the images of ImageNet_LT_train.txt, _val.txt and _test.txt; the last are ILSVRC's val images.

    ``val/`` may be flat or have a folder for each class, whichever way the list names it. Classes are
    WordNet ids. A list that is not the published one is used and said so.

    Args:
        source: folder with train/ and val/ of ILSVRC-2012, or Kaggle's download with ILSVRC/ in it.
        lists: folder of the lists; None: ``source``.

    Raises:
        UserError: a missing or unreadable list, labels that contradict each other, or no images.
    """
    folder = lists or source
    root = source / _KAGGLE if (source / _KAGGLE).is_dir() else source
    listed, notes = {}, []
    for split, published in PUBLISHED.items():
        path = folder / f"ImageNet_LT_{split}.txt"
        content = _read(path)
        listed[split] = _parse(path, content)
        known = published in _blob_hashes(content)
        notes.append(
            f"{path.name} is {'the published list' if known else 'not the published list, but used as it is'}"
        )
    classes = _classes(*listed["train"])
    for split, (names, labels) in listed.items():
        _agree(f"ImageNet_LT_{split}.txt", classes, names, labels)
    splits = {split: _listing(root, classes, *listed[split]) for split in listed}
    for listing in splits.values():
        some_file_exists(listing, root)
    return Source("imagenet-lt", classes, splits, notes=notes)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"Cannot read {path}: {error.strerror}; name the folder of the lists with --lists "
            "(`fasticcl datasets` says where to get them)."
        ) from None


def _blob_hashes(content: bytes) -> set[str]:
    """Return git's hash of the file, with and without a newline at its end: copies differ in that."""
    bare = content.rstrip(b"\n")
    return {hashlib.sha1(b"blob %d\0" % len(each) + each).hexdigest() for each in (bare, bare + b"\n")}


def _parse(path: Path, content: bytes) -> tuple[list[str], array]:
    names, labels = [], array("q")
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise UserError(f"{path}, line {number}: expected `path label`, got {line[:80]!r}.")
        names.append(name)
        labels.append(int(label))
    if not names:
        raise UserError(f"{path} names no images; get the list again.")
    return names, labels


def _classes(names: list[str], labels: array) -> list[str]:
    """Return the WordNet id of each label, from paths like train/n01440764/n01440764_762.JPEG."""
    found: dict[int, str] = {}
    for name, label in zip(names, labels, strict=True):
        wordnet = Path(name).parent.name
        if found.setdefault(label, wordnet) != wordnet:
            raise UserError(f"ImageNet_LT_train.txt gives label {label} to {found[label]} and to {wordnet}.")
    if sorted(found) != list(range(len(found))) or len(set(found.values())) != len(found):
        raise UserError("ImageNet_LT_train.txt: labels and classes do not go together one by one.")
    return [found[label] for label in range(len(found))]


def _agree(file: str, classes: list[str], names: list[str], labels: array) -> None:
    """Check that a list puts no image into another class than that of the folder that it names."""
    places = {wordnet: label for label, wordnet in enumerate(classes)}
    for name, label in zip(names, labels, strict=True):
        folder = Path(name).parent.name
        if label < len(classes) and places.get(folder, label) != label:
            raise UserError(f"{file} gives {name} the label {label}, which is {classes[label]}.")


def _listing(root: Path, classes: list[str], names: list[str], labels: array) -> Listing:
    if unknown := [label for label in labels if label >= len(classes)]:
        raise UserError(f"The lists of val or test have the label {unknown[0]}, which train does not have.")
    if names and names[0].startswith("val/"):
        flat = (root / "val" / Path(names[0]).name).is_file()
        names = [
            f"val/{Path(name).name}" if flat else f"val/{classes[label]}/{Path(name).name}"
            for name, label in zip(names, labels, strict=True)
        ]
    return files(root, names, labels)


LAYOUT = Layout(
    read=read,
    what="1,000 classes, 115,846 training, 20,000 validation and 50,000 test images of ILSVRC-2012",
    where="ILSVRC2012 train and val: image-net.org (an account is needed); the lists "
    "ImageNet_LT_{train,val,test}.txt: github.com/zhmiao/OpenLongTailRecognition-OLTR",
    licence="ImageNet's terms of access: non-commercial research and education",
    command="fasticcl convert imagenet-lt ILSVRC2012 data/imagenet-lt --lists LISTS",
    options=frozenset({"lists"}),
)
