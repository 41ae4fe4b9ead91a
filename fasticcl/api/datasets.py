"""Converting, checking and looking at datasets."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasticcl.api.training import configure

if TYPE_CHECKING:
    from fasticcl.console import ProgressCallback
    from fasticcl.shards.manifest import Manifest
    from fasticcl.shards.summary import Summary
    from fasticcl.shards.verify import VerificationResult


def convert(
    layout: str,
    source: str | Path,
    dest: str | Path,
    *,
    lists: str | Path | None = None,
    imbalance: int | None = None,
    download: bool = False,
    val_fraction: float | None = None,
    long_tail: float | None = None,
    short_side: int | None = None,
    max_side: int | None = None,
    quality: int | None = None,
    shard_size: int = 2000,
    workers: int | None = None,
    max_corrupt: int = 0,
    limit: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    report: "ProgressCallback | None" = None,
    note: Callable[[str], None] | None = None,
) -> "Manifest | None":
    """Convert a dataset into shards and return their manifest.

    Args:
        layout: inat2018, imagenet-lt, cifar100-lt, cifar10-lt, folder or list; see ``fasticcl datasets``.
        source: the original dataset.
        dest: folder of the shards.
        lists: folder of the lists of imagenet-lt; None: ``source``.
        imbalance: imbalance ratio of CIFAR-LT, 100, 50 or 10; None: 100.
        download: get CIFAR with torchvision first.
        val_fraction: share of every class that is put aside where folder or list has no split.
        long_tail: imbalance ratio to which folder or list is cut, by the profile of section 4.1.
        short_side: short side in pixels above which images are made smaller.
        max_side: the same for the long side.
        quality: JPEG quality, 1 to 100, of images that are made smaller; None: 90.
        shard_size: images per shard.
        workers: threads; None: one per core.
        max_corrupt: unreadable images that are accepted.
        limit: most images a split, spread evenly; classes left without training images are left out.
        rank, world_size: which of several processes this is; they divide the shards. Rank 0 waits for
            the others and returns the manifest, the others return None.
        report: called with the images just done and the images in all.
        note: called with what a person should know of how the layout was read.

    Raises:
        UserError: bad input, in one sentence.
    """
    from fasticcl.convert import conversion as conversion
    from fasticcl.convert.layouts import registry
    from fasticcl.shards.shrink import Shrink

    shrink = Shrink.from_options(short_side, max_side, quality)
    found = registry.read_source(
        layout,
        Path(source),
        long_tail=long_tail,
        limit=limit,
        lists=Path(lists) if lists else None,
        imbalance=imbalance,
        download=download or None,
        val_fraction=val_fraction,
    )
    for line in found.notes:
        if note:
            note(line)
    return conversion.convert(
        found,
        Path(dest),
        shard_size=shard_size,
        shrink=shrink,
        workers=workers,
        max_corrupt=max_corrupt,
        rank=rank,
        world_size=world_size,
        report=report,
    )


def verify(
    dest: str | Path,
    *,
    decode: bool = False,
    workers: int | None = None,
    report: "ProgressCallback | None" = None,
) -> "VerificationResult":
    """Check shards against their checksums, indexes and manifest, and return what was found.

    Args:
        dest: folder of the shards.
        decode: decode every image too.
        workers: threads; None: one per core.
        report: called with the images just checked and the images in all.

    Raises:
        UserError: there are no shards, or their manifest is damaged.
    """
    from fasticcl.shards import verify as verification

    return verification.verify(Path(dest), decode=decode, workers=workers, report=report)


def show(
    dest: str | Path,
    *,
    samples: str | Path | None = None,
    seed: int | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
) -> "Summary":
    """Return what a folder of shards holds, in numbers.

    Args:
        dest: folder of the shards.
        samples: PNG file into which the first pairs of a run are drawn: both streams and their mix.
        seed: seed of that run.
        set: its further settings, as {"section.key": value} or ["section.key=value"].

    Raises:
        UserError: there are no shards, or bad input.
    """
    from fasticcl.shards.summary import read_summary

    summary = read_summary(Path(dest))
    if samples:
        from fasticcl.data.preview import write_samples

        config = configure(summary.manifest.dataset, data=dest, seed=seed, set=set)
        write_samples(config, Path(samples))
    return summary
