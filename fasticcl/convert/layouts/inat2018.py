"""iNaturalist 2018: the official COCO-style annotations, images in train_val2018/ or its .tar.gz."""

import json
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any

from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.source import Listing, Source, files, some_file_exists
from fasticcl.convert.tar_stream import open_tar
from fasticcl.errors import UserError

_IMAGES = "train_val2018"


def read(source: Path) -> Source:
    """List the images of train2018.json and val2018.json (or their .tar.gz), joined by ``image_id``.

    Classes are the categories by ascending id; categories.json, where it is there, gives their real names.

    Raises:
        UserError: a missing or foreign file, or an image without exactly one category.
    """
    annotations = {split: _annotations(source, f"{split}2018") for split in ("train", "val")}
    names = _names(annotations["train"]["categories"])
    if (real := _find(source, "categories")) is not None:
        try:
            names |= {each: name for each, name in _names(_load(real)).items() if each in names}
        except (KeyError, TypeError):
            raise UserError(f"{real} is no list of categories; download it again or remove it.") from None
    labels = {category: label for label, category in enumerate(sorted(names))}
    splits = {split: _listing(source, split, each, labels) for split, each in annotations.items()}
    archive = None if (source / _IMAGES).is_dir() else _archive(source)
    if archive is None:
        for listing in splits.values():
            some_file_exists(listing, source)
    return Source("inat2018", [str(names[each]) for each in sorted(names)], splits, archive)


def _listing(source: Path, split: str, found: dict[str, Any], labels: dict[int, int]) -> Listing:
    category = dict(found["annotations"])
    if len(category) != len(found["annotations"]):
        raise UserError(f"{split}2018.json gives an image more than one category; download it again.")
    for image, name in found["images"]:
        if category.get(image) not in labels:
            raise UserError(f"{split}2018.json gives {name} no known category; download it again.")
    return files(
        source,
        (name for _, name in found["images"]),
        (labels[category[image]] for image, _ in found["images"]),
    )


def _annotations(source: Path, stem: str) -> dict[str, Any]:
    path = _find(source, stem)
    if path is None:
        raise UserError(
            f"{source} has neither {stem}.json nor {stem}.json.tar.gz; "
            "`fasticcl datasets` says where to get it."
        )
    found = _load(path)
    try:
        sound = bool(found["images"]) and all(isinstance(name, str) for _, name in found["images"])
        dict(found["annotations"])
        _names(found["categories"])
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise UserError(f"{path} lacks images, annotations or categories; is it iNaturalist 2018's?")
    return found


def _find(source: Path, stem: str) -> Path | None:
    found = [path for suffix in (".json", ".json.tar.gz") if (path := source / f"{stem}{suffix}").is_file()]
    return found[0] if found else None


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            with open(path, "rb") as file:
                return _parse(file)
        with open_tar(path) as tar:
            for member in tar:
                if member.name.endswith(".json") and (file := tar.extractfile(member)):
                    return _parse(file)
        raise ValueError("it holds no .json file")
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as annotations ({error}); download it again.") from None


def _names(categories: Any) -> dict[int, str]:
    if not isinstance(categories, list):
        raise TypeError
    return {each["id"]: each["name"] for each in categories}


def _parse(file: IO[bytes]) -> Any:
    return json.load(file, object_hook=_slim)


def _slim(record: dict[str, Any]) -> Any:
    """Keep what matters of a record while the file is parsed: half a million dictionaries fill a gigabyte."""
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
        f"{source} has neither the folder {_IMAGES}/ nor {_IMAGES}.tar.gz; "
        "`fasticcl datasets` says where to get it."
    )


LAYOUT = Layout(
    read=read,
    what="8,142 species, 437,513 training and 24,426 validation images, 120 GB",
    where="train_val2018.tar.gz, train2018.json.tar.gz, val2018.json.tar.gz and, for real names, "
    "categories.json: github.com/visipedia/inat_comp, folder 2018",
    licence="non-commercial research and education; each photograph has its own licence",
    command="fasticcl convert inat2018 DOWNLOADS data/inat2018",
)
