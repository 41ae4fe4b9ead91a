"""Parts of a dataset: a long tail, images put aside for evaluation, a small piece to try things on.

What is drawn here is part of the data and not of a run, so the seed is fixed; ``RandomState`` is the
one generator whose numbers NumPy promises never to change.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fasticcl.convert.source import Listing, Source
from fasticcl.errors import UserError
from fasticcl.longtail import exponential_counts

_SEED = 0


def shuffled_members(labels: NDArray[np.integer], num_classes: int) -> list[NDArray[np.int64]]:
    """Return the places of each class's images, shuffled class by class with one generator.

    The first n_k of these are the long-tailed CIFAR of LDAM-DRW and BBN, to the image.
    """
    generator = np.random.RandomState(_SEED)  # these very numbers are the point
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    members = np.split(np.argsort(labels, kind="stable"), ends[:-1])
    for places in members:
        generator.shuffle(places)
    return members


def long_tailed(
    labels: NDArray[np.integer], num_classes: int, imbalance: float, largest: int | None = None
) -> NDArray[np.int64]:
    """Return the places of an exponentially long-tailed part, class by class, the first class the largest.

    Args:
        labels: [N] classes.
        num_classes: K.
        imbalance: largest over smallest class.
        largest: images of the first class; None: as many as every class's share allows.

    Raises:
        ValueError: fewer than two classes, or a tail without images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    if largest is None:
        largest = _largest_head(counts, imbalance)
    wanted = exponential_counts(largest, num_classes, imbalance)
    members = shuffled_members(labels, num_classes)
    return np.concatenate([places[:count] for places, count in zip(members, wanted, strict=True)])


def _largest_head(counts: NDArray[np.integer], imbalance: float) -> int:
    """Return the largest first class whose exponential profile fits into classes of these sizes."""
    low, high = 0, int(counts[0])
    while low < high:
        middle = (low + high + 1) // 2
        try:
            fits = bool((exponential_counts(middle, len(counts), imbalance) <= counts).all())
        except ValueError:
            fits = True  # too small for this ratio: the profile says so when it is built
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def with_long_tail(source: Source, imbalance: float) -> Source:
    """Return a source whose training split has the exponential profile of section 4.1.

    Raises:
        UserError: too few images or classes for this ratio.
    """
    train = _listing(source, "train")
    try:
        places = long_tailed(train.labels, len(source.classes), imbalance)
    except ValueError as error:
        raise UserError(f"--long-tail {imbalance:g}: {error}.") from None
    return dataclasses.replace(
        source,
        splits={**source.splits, "train": train.take(places)},
        settings={**source.settings, "long_tail": imbalance},
    )


def split_validation(listing: Listing, fraction: float) -> tuple[Listing, Listing]:
    """Put a share of every class aside: return what stays and what is put aside, each in the old order.

    A class gives away at least one image, unless it has only one.
    """
    if not 0 < fraction < 1:
        raise UserError(f"--val-fraction is between 0 and 1, got {fraction:g}.")
    aside = []
    for places in shuffled_members(listing.labels, int(listing.labels.max()) + 1):
        share = min(max(1, round(len(places) * fraction)), len(places) - 1)
        aside.append(places[: max(0, share)])
    held = np.zeros(len(listing), dtype=bool)
    held[np.concatenate(aside)] = True
    if not held.any():
        raise UserError("--val-fraction puts no image aside: every class has only one.")
    return listing.take(np.flatnonzero(~held)), listing.take(np.flatnonzero(held))


def limited(source: Source, most: int) -> Source:
    """Return a source with at most so many images a split, spread evenly over it.

    Classes that are left without training images are left out.
    """
    splits = {split: _listing(source, split) for split in source.splits}
    splits = {split: listing.take(_spread(len(listing), most)) for split, listing in splits.items()}
    kept = np.unique(splits["train"].labels)
    new_label = np.full(len(source.classes), -1)
    new_label[kept] = np.arange(len(kept))
    return dataclasses.replace(
        source,
        classes=[source.classes[label] for label in kept],
        splits=_renumbered(splits, new_label),
        settings={**source.settings, "limit": most},
    )


def _spread(length: int, most: int) -> NDArray[np.int64]:
    return np.arange(length) if length <= most else np.arange(most) * length // most


def _renumbered(splits: Mapping[str, Listing], new_label: NDArray[np.int64]) -> dict[str, Listing]:
    renumbered = {}
    for split, listing in splits.items():
        labels = new_label[listing.labels]
        known = np.flatnonzero(labels >= 0)
        if not len(known):
            raise UserError(
                f"--limit leaves no image of {split}/ whose class has a training image; raise it."
            )
        renumbered[split] = listing.take(known).relabelled(labels[known])
    return renumbered


def _listing(source: Source, split: str) -> Listing:
    listing = source.splits[split]
    assert isinstance(listing, Listing), "layouts list their images as Listing"
    return listing
