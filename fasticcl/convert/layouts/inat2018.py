"""iNaturalist 2018: the official COCO-style annotations, with images in train_val2018/ or its .tar.gz."""

import json
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any

from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.source import ItemList, Source, check_some_file_exists, list_files
from fasticcl.convert.tar_stream import open_tar
from fasticcl.errors import UserError

_IMAGES = "train_val2018"


def read(source: Path) -> Source:
    """List the images of train2018.json and val2018.json (or their .tar.gz), joined by ``image_id``.

    Classes are the categories by ascending id. If categories.json exists, it provides their real names.

    Args:
        source: folder of the downloaded files, unpacked or not.

    Raises:
        UserError: a file is missing or invalid, or an image does not have exactly one category.
    """
    annotations = {split: _annotations(source, f"{split}2018") for split in ("train", "val")}
    names = _names(annotations["train"]["categories"])
    if (path := _find(source, "categories")) is not None:
        try:
            names |= {category: name for category, name in _names(_load(path)).items() if category in names}
        except (KeyError, TypeError):
            raise UserError(f"{path} is not a list of categories. Download it again or remove it.") from None
    labels = {category: label for label, category in enumerate(sorted(names))}
    splits = {split: _list_images(source, split, content, labels) for split, content in annotations.items()}
    archive = None if (source / _IMAGES).is_dir() else _archive(source)
    if archive is None:
        for items in splits.values():
            check_some_file_exists(items, source)
    return Source("inat2018", [str(names[category]) for category in sorted(names)], splits, archive)


def _list_images(source: Path, split: str, content: dict[str, Any], labels: dict[int, int]) -> ItemList:
    category = dict(content["annotations"])
    if len(category) != len(content["annotations"]):
        raise UserError(f"{split}2018.json assigns several categories to one image. Download it again.")
    for image, name in content["images"]:
        if category.get(image) not in labels:
            raise UserError(f"{split}2018.json assigns no known category to {name}. Download it again.")
    return list_files(
        source,
        (name for _, name in content["images"]),
        (labels[category[image]] for image, _ in content["images"]),
    )


def _annotations(source: Path, stem: str) -> dict[str, Any]:
    path = _find(source, stem)
    if path is None:
        raise UserError(
            f"{source} has neither {stem}.json nor {stem}.json.tar.gz. "
            "Download it (for its address run: fasticcl datasets)."
        )
    content = _load(path)
    try:
        valid = bool(content["images"]) and all(isinstance(name, str) for _, name in content["images"])
        dict(content["annotations"])
        _names(content["categories"])
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise UserError(f"{path} lacks images, annotations or categories. Use the official file.")
    return content


def _find(source: Path, stem: str) -> Path | None:
    paths = (source / f"{stem}{suffix}" for suffix in (".json", ".json.tar.gz"))
    return next((path for path in paths if path.is_file()), None)


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            with open(path, "rb") as file:
                return _parse(file)
        with open_tar(path) as tar:
            for member in tar:
                if member.name.endswith(".json") and (file := tar.extractfile(member)):
                    return _parse(file)
        raise ValueError("it contains no .json file")
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as annotations ({error}). Download it again.") from None


def _names(categories: Any) -> dict[int, str]:
    if not isinstance(categories, list):
        raise TypeError
    return {category["id"]: category["name"] for category in categories}


def _parse(file: IO[bytes]) -> Any:
    return json.load(file, object_hook=_reduced)


def _reduced(record: dict[str, Any]) -> Any:
    """Reduce a record to the needed fields. Half a million complete dictionaries would take a gigabyte."""
    if "file_name" in record:
        return record["id"], record["file_name"]
    if "image_id" in record:
        return record["image_id"], record["category_id"]
    return record


def _archive(source: Path) -> Path:
    for suffix in (".tar.gz", ".tgz", ".tar"):
        if (path := source / f"{_IMAGES}{suffix}").is_file():
            return path
    raise UserError(
        f"{source} has neither the folder {_IMAGES}/ nor {_IMAGES}.tar.gz. "
        "Download it (for its address run: fasticcl datasets)."
    )


LAYOUT = Layout(
    read=read,
    description="8,142 species, 437,513 training and 24,426 validation images, 120 GB",
    download="train_val2018.tar.gz, train2018.json.tar.gz, val2018.json.tar.gz and, for real names, "
    "categories.json from github.com/visipedia/inat_comp, folder 2018",
    licence="non-commercial research and education, and each photograph has its own licence",
    example="fasticcl convert inat2018 DOWNLOADS data/inat2018",
)
