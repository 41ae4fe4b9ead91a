"""Conversion, verification and inspection of datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console

from fasticcl.console import ImageProgress, print_lines
from fasticcl.options import Option, Progress, Settings, documented
from fasticcl.resolve import configure

if TYPE_CHECKING:
    from fasticcl.shards.manifest import Manifest
    from fasticcl.shards.summary import Summary
    from fasticcl.shards.verify import VerificationResult

Shards = Annotated[str | Path, Option("Folder of the shards.", metavar="DEST")]
Threads = Annotated[int | None, Option("Number of threads. None: one per available core.", min=1)]


_LAYOUTS = "Layout: inat2018, imagenet-lt, cifar100-lt, cifar10-lt, folder or list (see `fasticcl datasets`)."
Lists = Annotated[
    str | Path | None,
    Option("imagenet-lt: folder of ImageNet_LT_train.txt and the other lists. None: SRC.", metavar="DIR"),
]
Imbalance = Annotated[
    int | None, Option("CIFAR-LT: imbalance ratio, 100, 50 or 10. None: 100.", metavar="RATIO")
]
Download = Annotated[bool, Option("CIFAR-LT: download CIFAR with torchvision first.")]
ValFraction = Annotated[
    float | None,
    Option("folder, list: fraction of each class to use as the val split.", min=0.001, max=0.999),
]
LongTail = Annotated[
    float | None,
    Option(
        "folder, list: subsample the classes to this imbalance ratio, as in the paper's section 4.1.",
        min=1,
        metavar="RATIO",
    ),
]
ShortSide = Annotated[
    int | None, Option("Downscale images whose short side is longer than this, in pixels, as JPEG.", min=1)
]
MaxSide = Annotated[
    int | None, Option("Downscale images whose long side is longer than this, in pixels, as JPEG.", min=1)
]
Quality = Annotated[int | None, Option("JPEG quality of downscaled images. None: 90.", min=1, max=100)]
Limit = Annotated[
    int | None,
    Option(
        "Maximum number of images per split, evenly spaced. Classes without any training images are dropped.",
        min=1,
    ),
]
Rank = Annotated[
    int, "Index of this process. The processes divide the shards, and rank 0 waits for the others."
]


@documented
def convert(
    layout: Annotated[str, Option(_LAYOUTS, complete="layouts")],
    source: Annotated[
        str | Path,
        Option("Folder of the original dataset, or the CSV file of the layout list.", metavar="SRC"),
    ],
    dest: Shards,
    *,
    lists: Lists = None,
    imbalance: Imbalance = None,
    download: Download = False,
    val_fraction: ValFraction = None,
    long_tail: LongTail = None,
    short_side: ShortSide = None,
    max_side: MaxSide = None,
    quality: Quality = None,
    shard_size: Annotated[int, Option("Images per shard.", min=1)] = 2000,
    workers: Threads = None,
    max_corrupt: Annotated[int, Option("Number of unreadable images to accept.", min=0)] = 0,
    limit: Limit = None,
    rank: Rank = 0,
    world_size: Annotated[int, "Number of processes."] = 1,
    console: Progress = None,
) -> "Manifest | None":
    """Convert a dataset into shards and return their manifest, or None if ``rank`` is not 0.

    The same call continues a conversion that was stopped.

    Raises:
        UserError: invalid input, or more than ``max_corrupt`` unreadable images.
    """
    from fasticcl.convert import conversion
    from fasticcl.convert.layouts import registry
    from fasticcl.shards.shrink import Shrink

    shrink = Shrink.from_options(short_side, max_side, quality)
    with ImageProgress(console if console and not rank else Console(quiet=True), "converting") as progress:
        dataset = registry.read_source(
            layout,
            Path(source),
            long_tail=long_tail,
            limit=limit,
            lists=Path(lists) if lists else None,
            imbalance=imbalance,
            download=download or None,
            val_fraction=val_fraction,
        )
        print_lines(progress.console, dataset.notes)
        return conversion.convert(
            dataset,
            Path(dest),
            shard_size=shard_size,
            shrink=shrink,
            workers=workers,
            max_corrupt=max_corrupt,
            rank=rank,
            world_size=world_size,
            report=progress,
        )


@documented
def verify(
    dest: Shards,
    *,
    decode: Annotated[bool, Option("Also decode every image.")] = False,
    workers: Threads = None,
    console: Progress = None,
) -> "VerificationResult":
    """Check shards against their checksums, indexes and manifest, and return the findings.

    Raises:
        UserError: there are no shards, or their manifest is damaged.
    """
    from fasticcl.shards import verify as verification

    with ImageProgress(console or Console(quiet=True), "verifying") as progress:
        return verification.verify(Path(dest), decode=decode, workers=workers, report=progress)


@documented
def show(
    dest: Shards,
    *,
    samples: Annotated[
        str | Path | None,
        Option(
            "PNG file for a preview of the first training pairs: both streams and the mix.", metavar="FILE"
        ),
    ] = None,
    seed: Annotated[int | None, Option("Seed of the random choices in --samples.")] = None,
    set: Settings = (),
) -> "Summary":
    """Return a summary of shards: splits, classes, imbalance and image sizes.

    If ``samples`` is given, also write the preview.

    Raises:
        UserError: there are no shards, or the input is invalid.
    """
    from fasticcl.shards.summary import read_summary

    summary = read_summary(Path(dest))
    if samples:
        from fasticcl.data.preview import write_samples

        config = configure(summary.manifest.dataset, data=dest, seed=seed, set=set)
        write_samples(config, Path(samples))
    return summary
