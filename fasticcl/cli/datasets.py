"""Commands that convert and inspect datasets."""

import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer
from rich.console import Console

from fasticcl.api import datasets as api
from fasticcl.cli import tables
from fasticcl.cli.command import command, epilog
from fasticcl.cli.terminal import leave, persistent_console
from fasticcl.console import print_lines
from fasticcl.errors import Stopped, UserError, nearest
from fasticcl.plural import counted
from fasticcl.system import rank_environment

app = typer.Typer()


@command(
    app,
    api.convert,
    "fasticcl convert inat2018 DOWNLOADS data/inat2018",
    "fasticcl convert cifar100-lt DOWNLOADS data/cifar100-lt --imbalance 50 --download",
    "fasticcl convert cifar100-lt CIFAR_IMAGES data/cifar100-lt --imbalance 50",
    "fasticcl convert folder IMAGES data/folder --val-fraction 0.1 --short-side 256",
)
def convert(dest: Path, **options: Any) -> None:
    """Convert a dataset into shards.

    Running the same command again continues a stopped conversion. Under torchrun, the processes divide the
    shards.
    """
    console = persistent_console()
    rank, world_size = rank_environment.rank(), rank_environment.world_size()
    try:
        manifest = api.convert(dest=dest, **options, rank=rank, world_size=world_size, console=console)
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, shlex.join(["fasticcl", *sys.argv[1:]])) from None
    if manifest:
        print_lines(console, tables.conversion_summary(manifest, dest, options["source"]))
        print_lines(console, [tables.after_conversion(manifest, dest)])


@command(
    app, api.verify, "fasticcl verify data/inat2018", "fasticcl verify data/inat2018 --decode --workers 16"
)
def verify(dest: Path, *, decode: bool = False, **options: Any) -> None:
    """Check the integrity of shards.

    Compares the files with their checksums, indexes and manifest. The exit code is 1 if there is a problem.
    """
    console = Console()
    findings = api.verify(dest, decode=decode, **options, console=console)
    print_lines(console, tables.first_lines("same image in two splits: ", findings.duplicates))
    if findings.problems:
        print_lines(Console(stderr=True), tables.first_lines("", findings.problems))
        leave(1, f"error: {counted(len(findings.problems), 'problem')} in {dest}. Convert the dataset again.")
    suffix = " and can be decoded" if decode else ""
    line = f"{counted(findings.images, 'image')} in {counted(findings.shards, 'shard')} are intact{suffix}."
    print_lines(console, [line])


@command(
    app,
    api.show,
    "fasticcl show data/inat2018",
    "fasticcl show data/inat2018 --samples seen.png --set data.gamma=1",
)
def show(*, samples: Path | None = None, **options: Any) -> None:
    """Print a summary of shards.

    Shows splits, classes, imbalance, image sizes and a histogram. --samples draws training images as the
    network receives them.
    """
    print_lines(Console(), tables.shards_summary(api.show(samples=samples, **options)))
    if samples:
        print_lines(Console(), [f"samples   {samples}"])


@app.command(epilog=epilog("fasticcl datasets"))
def datasets() -> None:
    """List the datasets that can be converted.

    Shows the source, the licence and the next command for each.
    """
    print_lines(Console(), layout_lines())


@app.command(epilog=epilog("fasticcl presets", "fasticcl presets inat2018"))
def presets(name: Annotated[str | None, typer.Argument(help="Preset to print.")] = None) -> None:
    """List the presets, or print one with the sources of its settings.

    The methods are grouped, with their row in the paper and their citation.
    """
    from fasticcl.preset_files import preset_names, preset_text

    if not name:
        print_lines(Console(), preset_lines())
        return
    datasets, methods = preset_names(), preset_names("method")
    if name not in datasets + methods:
        raise UserError(f"There is no preset {name!r}. {nearest(name, datasets + methods)}")
    typer.echo(preset_text(name, "method" if name in methods else "dataset"), nl=False)


def preset_lines() -> Iterator[str]:
    """Yield the dataset presets, and the method presets by group, in lines of at most 80 columns."""
    from fasticcl.preset_files import GROUPS, DatasetPreset, MethodPreset, preset_names

    yield "Datasets, for fasticcl train DATASET"
    for preset in map(DatasetPreset.read, preset_names()):
        yield from wrap(f"  {preset.name:<12} {preset.title}", 80, subsequent_indent=" " * 15)
    yield ""
    yield "Methods, for fasticcl train DATASET --method METHOD"
    yield "Rows and tables are those of the ICCL paper."
    methods = [*map(MethodPreset.read, preset_names("method"))]
    width = max(len(method.name) for method in methods)
    for group in GROUPS:
        yield f"{group}:"
        for about, name in ((method.about, method.name) for method in methods):
            if about.group == group:
                yield f"  {name:<{width}} {about.title}"
                source = ". ".join(filter(None, (about.paper, about.citation)))
                indent = " " * (width + 3)
                yield from wrap(source, 80, initial_indent=indent, subsequent_indent=indent)
    yield ""
    yield "To print a preset with the sources of its settings: fasticcl presets NAME"


def layout_lines() -> Iterator[str]:
    """Yield the layouts of `fasticcl convert`, their sources and licences, and the next commands."""
    from fasticcl.convert.layouts.registry import LAYOUTS

    for name, layout in LAYOUTS.items():
        yield name
        yield f"  content  {layout.description}"
        if layout.download:
            yield f"  source   {layout.download}"
        yield f"  licence  {layout.licence}"
        yield f"  next     {layout.example}"
