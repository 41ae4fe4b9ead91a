"""Anybody's own images, named in a CSV file with the columns path, label and split."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from fasticcl.convert.layouts.layout import OWN_IMAGES, Layout
from fasticcl.convert.source import Listing, Source
from fasticcl.convert.subset import split_validation
from fasticcl.errors import UserError
from fasticcl.shards.manifest import SPLITS


def read(file: Path, val_fraction: float | None = None) -> Source:
    """List the images that a CSV file names, relative to the folder that the file is in.

    Labels are class names; where all are whole numbers they sort as numbers. The column split says
    train, val or test. With ``val_fraction`` it may be left out: that share of every class becomes val.

    Raises:
        UserError: a missing column, an unknown split, or a split or class without images.
    """
    rows = _read(file)
    columns = rows[0][1]
    if val_fraction is not None and "split" in columns:
        raise UserError(f"{file} has a column split; leave out --val-fraction or the column.")
    if val_fraction is None and "split" not in columns:
        raise UserError(f"{file} has no column split; add it, or give --val-fraction 0.1.")
    members: dict[str, list[Mapping[str, str]]] = {}
    for number, row in rows:
        split = row.get("split", "train")
        if split not in SPLITS:
            raise UserError(f"{file}, line {number}: the split is train, val or test, got {split!r}.")
        members.setdefault(split, []).append(row)
    if "train" not in members:
        raise UserError(f"{file} has no image with the split train.")
    if val_fraction is None and len(members) == 1:
        raise UserError(f"{file} has no image with the split val or test to evaluate on.")
    classes = _classes(row["label"] for row in members["train"])
    places = {name: label for label, name in enumerate(classes)}
    if strangers := [row for split in members.values() for row in split if row["label"] not in places]:
        raise UserError(
            f"{file}: {strangers[0]['path']} has the label {strangers[0]['label']!r}, "
            "which no training image has; add one or remove it."
        )
    splits = {
        split: Listing(
            [row["path"] for row in members[split]],
            [places[row["label"]] for row in members[split]],
            lambda _, name: file.parent / name,
        )
        for split in SPLITS
        if split in members
    }
    if val_fraction is not None:
        splits["train"], splits["val"] = split_validation(splits["train"], val_fraction)
    settings = {} if val_fraction is None else {"val_fraction": val_fraction}
    return Source("folder", classes, splits, settings=settings)


def _read(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows, each with the number of the line that it ends in."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a CSV file: {error}.") from None
    if not rows:
        raise UserError(f"{file} names no images; it needs a line `path,label,split` and one line an image.")
    for column in ("path", "label"):
        if column not in rows[0][1]:
            raise UserError(f"{file} has no column {column}; its first line should be `path,label,split`.")
    for number, row in rows:
        if None in row or None in row.values() or not row["path"] or not row["label"]:
            raise UserError(f"{file}, line {number}: it has too few or too many fields.")
    return rows


def _classes(labels: Iterable[str]) -> list[str]:
    names = set(labels)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


LAYOUT = Layout(
    read=read,
    what="your images: a CSV file with the columns path, label and split",
    command="fasticcl convert list IMAGES.csv data/folder",
    options=OWN_IMAGES,
)
