"""The user's own images, listed in a CSV file with the columns path, label and split."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from fasticcl.convert.layouts.layout import OWN_IMAGE_OPTIONS, Layout
from fasticcl.convert.source import ItemList, Source
from fasticcl.convert.subset import split_validation
from fasticcl.errors import UserError
from fasticcl.shards.manifest import SPLITS
from fasticcl.shards.published_subset import LIST_ORDER_SEED0


def read(file: Path, val_fraction: float | None = None) -> Source:
    """List the images of a CSV file. Their paths are relative to the folder that contains the file.

    Labels are class names. Classes are sorted numerically if all labels are whole numbers, otherwise by name.

    Args:
        file: CSV file with the columns path and label. Without ``val_fraction`` it also has the column
            split with the values train, val and test.
        val_fraction: fraction of every class to use as val if the file has no column split.

    Raises:
        UserError: a column is missing, a split is unknown, or a split or class has no images.
    """
    rows = _read(file)
    columns = rows[0][1]
    if val_fraction is not None and "split" in columns:
        raise UserError(f"{file} has a column split. Leave out --val-fraction or remove the column.")
    if val_fraction is None and "split" not in columns:
        raise UserError(f"{file} has no column split. Add it, or use --val-fraction 0.1.")
    members: dict[str, list[Mapping[str, str]]] = {}
    for number, row in rows:
        split = row.get("split", "train")
        if split not in SPLITS:
            raise UserError(f"{file}, line {number}: the split must be train, val or test, not {split!r}.")
        members.setdefault(split, []).append(row)
    if "train" not in members:
        raise UserError(f"{file} has no image with the split train. Add at least one.")
    if val_fraction is None and len(members) == 1:
        raise UserError(
            f"{file} has no image with the split val or test for evaluation. Add at least one, or remove the "
            "column split and use --val-fraction 0.1."
        )
    classes = _classes(row["label"] for row in members["train"])
    labels = {name: label for label, name in enumerate(classes)}
    if unknown := [row for rows in members.values() for row in rows if row["label"] not in labels]:
        raise UserError(
            f"{file}: {unknown[0]['path']} has the label {unknown[0]['label']!r}, "
            "which no training image has. Add a training image with this label or remove the line."
        )
    splits = {
        split: ItemList(
            [row["path"] for row in members[split]],
            [labels[row["label"]] for row in members[split]],
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
    """Return the rows of the file, each with the number of its last line."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a CSV file: {error}.") from None
    if not rows:
        raise UserError(
            f"{file} lists no images. It needs a first line `path,label,split` and one line per image."
        )
    for column in ("path", "label"):
        if column not in rows[0][1]:
            raise UserError(f"{file} has no column {column}. Its first line must be `path,label,split`.")
    for number, row in rows:
        if None in row or None in row.values() or not row["path"] or not row["label"]:
            raise UserError(f"{file}, line {number}: too few or too many fields. Each column needs a value.")
    return rows


def _classes(labels: Iterable[str]) -> list[str]:
    names = set(labels)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


LAYOUT = Layout(
    read=read,
    description="your images, listed in a CSV file with the columns path, label and split",
    example="fasticcl convert list IMAGES.csv data/folder",
    options=OWN_IMAGE_OPTIONS,
    subset=LIST_ORDER_SEED0,
)
