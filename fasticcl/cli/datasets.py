"""The verbs that make datasets and look at them: parse, call one function, print."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

import fasticcl
from fasticcl.cli import completion, tables
from fasticcl.cli.broken_pipe import lasting_console
from fasticcl.cli.examples import examples
from fasticcl.cli.exit import leave
from fasticcl.cli.image_progress import Meter
from fasticcl.cli.options import Workers
from fasticcl.console import print_lines
from fasticcl.errors import Stopped
from fasticcl.system import rank_environment

app = typer.Typer()


@app.command(
    epilog=examples(
        "fasticcl convert inat2018 DOWNLOADS data/inat2018",
        "fasticcl convert cifar100-lt DOWNLOADS data/cifar100-lt --imbalance 50 --download",
        "fasticcl convert folder IMAGES data/folder --val-fraction 0.1 --short-side 256",
    )
)
def convert(
    layout: Annotated[
        str,
        typer.Argument(
            help="inat2018, imagenet-lt, cifar100-lt, cifar10-lt, folder or list.",
            autocompletion=completion.layouts,
        ),
    ],
    source: Annotated[
        Path, typer.Argument(help="The original dataset; of list its FILE.csv.", metavar="SRC")
    ],
    dest: Annotated[Path, typer.Argument(help="Folder of the shards.", metavar="DEST")],
    lists: Annotated[
        Path | None, typer.Option(help="imagenet-lt: folder of ImageNet_LT_train.txt …", metavar="DIR")
    ] = None,
    imbalance: Annotated[
        int | None, typer.Option(help="CIFAR-LT: 100 (default), 50 or 10.", metavar="RATIO")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="CIFAR: get it first.")] = False,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="folder, list: share of every class put aside as val.", min=0.001, max=0.999),
    ] = None,
    long_tail: Annotated[
        float | None, typer.Option(help="folder, list: cut to this imbalance ratio.", min=1, metavar="RATIO")
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(min=1, help="Make images smaller to this short side, as JPEG.")
    ] = None,
    max_side: Annotated[int | None, typer.Option(min=1, help="The same by their long side.")] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="JPEG quality of these; default: 90.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 2000,
    workers: Workers = None,
    max_corrupt: Annotated[int, typer.Option(min=0, help="Unreadable images that are accepted.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many images a split, spread over it.")
    ] = None,
) -> None:
    """Convert a dataset into shards.

    The same command continues a conversion that was stopped. Under torchrun the processes divide the shards.
    """
    console = lasting_console()
    rank, world_size = rank_environment.rank(), rank_environment.world_size()
    quiet = Console(quiet=True) if rank else console
    try:
        with Meter(quiet, "converting") as meter:
            manifest = fasticcl.convert(
                layout,
                source,
                dest,
                lists=lists,
                imbalance=imbalance,
                download=download,
                val_fraction=val_fraction,
                long_tail=long_tail,
                short_side=short_side,
                max_side=max_side,
                quality=quality,
                shard_size=shard_size,
                workers=workers,
                max_corrupt=max_corrupt,
                limit=limit,
                rank=rank,
                world_size=world_size,
                report=meter,
                note=lambda line: print_lines(quiet, [line]),
            )
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, shlex.join(["fasticcl", *sys.argv[1:]])) from None
    if manifest:
        print_lines(console, tables.converted(manifest, dest))
        print_lines(console, [tables.after_conversion(manifest, dest)])


@app.command(
    epilog=examples(
        "fasticcl verify data/inat2018",
        "fasticcl verify data/inat2018 --decode --workers 16",
    )
)
def verify(
    dest: Annotated[Path, typer.Argument(help="Folder of the shards.", metavar="DEST")],
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image too.")] = False,
    workers: Workers = None,
) -> None:
    """Check shards byte by byte.

    Compares checksums, indexes and manifest; exit code 1 if anything is wrong.
    """
    console = Console()
    with Meter(console, "verifying") as meter:
        found = fasticcl.verify(dest, decode=decode, workers=workers, report=meter)
    print_lines(console, tables.some("same image in two splits: ", found.duplicates))
    if found.problems:
        print_lines(Console(stderr=True), tables.some("", found.problems))
        leave(1, f"error: {len(found.problems)} problems in {dest}; convert the dataset again.")
    print_lines(
        console,
        [
            f"{found.images:,} images in {found.shards:,} shards are as they were converted"
            f"{', and decode' if decode else ''}."
        ],
    )


@app.command(
    epilog=examples(
        "fasticcl show data/inat2018",
        "fasticcl show data/inat2018 --samples seen.png --set data.gamma=1",
    )
)
def show(
    dest: Annotated[Path, typer.Argument(help="Folder of the shards.", metavar="DEST")],
    samples: Annotated[
        Path | None, typer.Option(help="Draw what the network sees into this PNG.", metavar="FILE")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the plan, for --samples.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, for --samples; repeatable.", metavar="SECTION.KEY=VALUE"),
    ] = None,
) -> None:
    """Say what shards hold.

    Splits, classes, imbalance, sizes and a histogram; --samples draws what the network sees.
    """
    summary = fasticcl.show(dest, samples=samples, seed=seed, set=assign or ())
    print_lines(Console(), tables.shards(summary))
    if samples:
        print_lines(Console(), [f"samples   {samples}"])


@app.command(
    epilog=examples(
        "fasticcl datasets",
    )
)
def datasets() -> None:
    """List the datasets that convert knows.

    Where to get each, its licence, and what to type next.
    """
    print_lines(Console(), tables.layouts())


@app.command(
    epilog=examples(
        "fasticcl presets",
        "fasticcl presets inat2018",
    )
)
def presets(name: Annotated[str | None, typer.Argument(help="Show this preset.")] = None) -> None:
    """List the presets, or show one with its sources."""
    from fasticcl.resolve import preset_names, preset_text

    if name:
        kind: Literal["dataset", "method"] = "method" if name in preset_names("method") else "dataset"
        typer.echo(preset_text(name, kind), nl=False)
        return
    for kind, use in (("dataset", "DATASET"), ("method", "DATASET --method METHOD")):
        typer.echo(f"{kind} presets, for fasticcl train {use}:")
        for each in preset_names(kind):
            typer.echo(f"  {each:<12} {preset_text(each, kind).splitlines()[0].removeprefix('# ')}")
    typer.echo("All settings of one, with their sources: fasticcl presets NAME")
