"""Subsets of a dataset: a long-tailed subset, a validation split, and a small subset for a trial.

These subsets are part of the dataset and not of a run, so the seed is fixed. ``RandomState`` is the only
generator whose sequence NumPy guarantees never to change.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fasticcl.convert.source import ItemList, Source
from fasticcl.errors import UserError
from fasticcl.longtail import exponential_counts
from fasticcl.shards.published_subset import FILE_NAMES_SEED0

_SEED = 0


def shuffled_positions(labels: NDArray[np.integer], num_classes: int) -> list[NDArray[np.int64]]:
    """Return the positions of the images of each class, shuffled class by class with one generator.

    The first n_k positions of each class are exactly the long-tailed CIFAR of LDAM-DRW and BBN.
    """
    generator = np.random.RandomState(_SEED)  # a different generator would select different images
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    positions = np.split(np.argsort(labels, kind="stable"), ends[:-1])
    for class_positions in positions:
        generator.shuffle(class_positions)
    return positions


def long_tailed_positions(
    labels: NDArray[np.integer], num_classes: int, imbalance: float, largest: int | None = None
) -> NDArray[np.int64]:
    """Return the positions of an exponentially long-tailed subset, class by class, largest class first.

    Args:
        labels: [N] labels.
        num_classes: K.
        imbalance: size of the largest class divided by that of the smallest.
        largest: size of the first class, or None for the largest size that the class counts allow.

    Raises:
        ValueError: there are fewer than two classes, or the smallest class would be empty.
    """
    counts = np.bincount(labels, minlength=num_classes)
    if largest is None:
        largest = _largest_head(counts, imbalance)
    sizes = exponential_counts(largest, num_classes, imbalance)
    positions = shuffled_positions(labels, num_classes)
    return np.concatenate(
        [class_positions[:size] for class_positions, size in zip(positions, sizes, strict=True)]
    )


def _largest_head(counts: NDArray[np.integer], imbalance: float) -> int:
    """Return the largest size of the first class whose exponential profile fits into these class counts."""
    low, high = 0, int(counts[0])
    while low < high:
        middle = (low + high + 1) // 2
        try:
            fits = bool((exponential_counts(middle, len(counts), imbalance) <= counts).all())
        except ValueError:
            fits = True  # too small for this ratio, which raises an error later
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def make_long_tailed(source: Source, imbalance: float, subset: str = FILE_NAMES_SEED0) -> Source:
    """Return a source whose training split has the exponential profile of section 4.1 of the paper.

    Args:
        source: the whole dataset.
        imbalance: size of the largest class divided by that of the smallest.
        subset: name of the choice of images, which depends on their order in ``source``.

    Raises:
        UserError: there are too few images or classes for this ratio.
    """
    train = _item_list(source, "train")
    try:
        positions = long_tailed_positions(train.labels, len(source.classes), imbalance)
    except ValueError as error:
        raise UserError(f"--long-tail {imbalance:g}: {error}.") from None
    return dataclasses.replace(
        source,
        splits={**source.splits, "train": train.take(positions)},
        settings={**source.settings, "long_tail": imbalance},
        subset=subset,
    )


def split_validation(items: ItemList, fraction: float) -> tuple[ItemList, ItemList]:
    """Split off a fraction of every class for validation. Return the training and the validation images.

    Both keep the order of ``items``. Every class provides at least one validation image, except a class with
    a single image, which stays in training.

    Raises:
        UserError: the fraction is not between 0 and 1, or every class has a single image.
    """
    if not 0 < fraction < 1:
        raise UserError(f"--val-fraction must be between 0 and 1, not {fraction:g}.")
    selected = []
    for positions in shuffled_positions(items.labels, int(items.labels.max()) + 1):
        share = min(max(1, round(len(positions) * fraction)), len(positions) - 1)
        selected.append(positions[: max(0, share)])
    validation = np.zeros(len(items), dtype=bool)
    validation[np.concatenate(selected)] = True
    if not validation.any():
        raise UserError("--val-fraction selects no image, because every class has only one. Add images.")
    return items.take(np.flatnonzero(~validation)), items.take(np.flatnonzero(validation))


def limit_images(source: Source, limit: int) -> Source:
    """Return a source with at most ``limit`` images per split, spread evenly over the split.

    Classes without a remaining training image are removed.

    Raises:
        UserError: a split has no image of the remaining classes.
    """
    splits = {split: _item_list(source, split) for split in source.splits}
    splits = {split: items.take(_spread(len(items), limit)) for split, items in splits.items()}
    remaining = np.unique(splits["train"].labels)
    new_label = np.full(len(source.classes), -1)
    new_label[remaining] = np.arange(len(remaining))
    return dataclasses.replace(
        source,
        classes=[source.classes[label] for label in remaining],
        splits=_relabelled(splits, new_label),
        settings={**source.settings, "limit": limit},
    )


def _spread(length: int, limit: int) -> NDArray[np.int64]:
    return np.arange(length) if length <= limit else np.arange(limit) * length // limit


def _relabelled(splits: Mapping[str, ItemList], new_label: NDArray[np.int64]) -> dict[str, ItemList]:
    relabelled = {}
    for split, items in splits.items():
        labels = new_label[items.labels]
        known = np.flatnonzero(labels >= 0)
        if not len(known):
            raise UserError(
                f"--limit leaves no image of {split}/ whose class has a training image. Increase the limit."
            )
        relabelled[split] = items.take(known).relabelled(labels[known])
    return relabelled


def _item_list(source: Source, split: str) -> ItemList:
    items = source.splits[split]
    assert isinstance(items, ItemList), "subsets need a layout that returns its splits as ItemList"
    return items
