"""Commands of ``fasticcl bench``, one for each benchmark."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fasticcl.api import diagnostics
from fasticcl.cli.command import command
from fasticcl.cli.terminal import lasting_console
from fasticcl.console import print_lines
from fasticcl.errors import UserError
from fasticcl.system.allocator import keep_freed_memory

app = typer.Typer(
    help="Measure the throughput of this machine.\n\n"
    "The plan, the loader, the training step, training and conversion are measured separately.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the result to this file.", metavar="FILE")
]


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench plan inat2018 --data data/inat2018",
    name="plan",
    omit=("images", "image_size", "encoder", "device", "workers"),
)
def plan(*, file: JsonFile = None, **options: Any) -> None:
    """Images per second that the plan draws, without reading images."""
    _measure("plan", file, options)


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench loader",
    "fasticcl bench loader inat2018 --data data/inat2018 --workers 16",
    name="loader",
    omit=("encoder",),
)
def loader(*, file: JsonFile = None, **options: Any) -> None:
    """Images per second of the loader, without a consumer."""
    _measure("loader", file, options)


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench step inat2018 --phase warmup",
    name="step",
    omit=("images", "workers"),
)
def step(*, file: JsonFile = None, **options: Any) -> None:
    """Images per second of a training step, on synthetic batches on the device."""
    _measure("step", file, options)


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench train inat2018 --data data/inat2018",
    "fasticcl bench train -c runs/inat2018/iccl-1/config.toml --json result.json",
    name="train",
)
def train(*, file: JsonFile = None, **options: Any) -> None:
    """Training end to end, compared with loader and step alone: the bottleneck and how to widen it."""
    _measure("train", file, options)


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench convert --data IMAGES",
    name="convert",
    omit=(
        *("dataset", "batch_size", "image_size", "encoder"),
        *("phase", "device", "config", "set"),
    ),
)
def convert(*, file: JsonFile = None, **options: Any) -> None:
    """Images per second of conversion, with unchanged and with downscaled images."""
    _measure("convert", file, options)


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench all inat2018 --data data/inat2018 --json result.json",
    name="all",
)
def everything(*, file: JsonFile = None, **options: Any) -> None:
    """All benchmarks, and a Markdown page to paste into an issue. --phase selects the phase of train."""
    _measure("all", file, options)


def _measure(what: str, file: Path | None, options: dict[str, Any]) -> None:
    """Run a benchmark, print its tables and write the result to a file."""
    from fasticcl.bench.result import markdown, tables

    if file and not file.parent.is_dir():
        raise UserError(f"There is no folder {file.parent} for --json. Create it first.")
    keep_freed_memory()  # as in training
    console = lasting_console()
    result = diagnostics.benchmark(what, **options, console=Console(stderr=True))
    for table in tables(result):
        console.print(table)
    if what == "all":
        print_lines(console, ["", markdown(result)])
    else:
        lines = [*([result.advice] if result.advice else []), *(f"note: {note}" for note in result.notes)]
        print_lines(console, lines)
    if file:
        try:
            file.write_text(
                json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise UserError(f"Cannot write {file}: {error.strerror}.") from None
