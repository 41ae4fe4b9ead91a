"""Commands of ``fasticcl bench``, one for each benchmark."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fasticcl.api import diagnostics
from fasticcl.cli.command import command
from fasticcl.cli.terminal import persistent_console
from fasticcl.console import print_lines
from fasticcl.errors import UserError
from fasticcl.system.allocator import keep_freed_memory

app = typer.Typer(
    help="Measure the throughput of this machine.\n\n"
    "The plan, the loader, the training step, training and conversion are measured separately. "
    "Each figure is shown with the sizes of its batches.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the result to this file as JSON.", metavar="FILE")
]


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench plan inat2018 --data data/inat2018",
    name="plan",
    omit=("images", "image_size", "encoder", "device", "workers"),
)
def plan(*, file: JsonFile = None, **options: Any) -> None:
    """Measure the planning of batches, without reading images."""
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
    """Measure the loader, without a consumer.

    The preset determines batch size, image size and augmentation, on every machine.
    """
    _measure("loader", file, options)


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench step inat2018 --phase warmup",
    name="step",
    omit=("images", "workers"),
)
def step(*, file: JsonFile = None, **options: Any) -> None:
    """Measure training steps, on a synthetic batch on the device.

    On a CPU, images larger than 32 pixels are trained in batches of 4 unless --batch-size is given. A CPU
    with bfloat16 instructions is measured in float32, the default, and in bfloat16.
    """
    _measure("step", file, options)


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench train inat2018 --data data/inat2018",
    "fasticcl bench train -c runs/inat2018/iccl-1/config.toml --json result.json",
    name="train",
)
def train(*, file: JsonFile = None, **options: Any) -> None:
    """Measure end-to-end training and name the bottleneck.

    The loader and the step are also measured alone, with the same batches, and settings that may speed up
    training are suggested. On a CPU, images larger than 32 pixels are trained in batches of 4 unless
    --batch-size is given.
    """
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
    """Measure conversion, with unchanged and with downscaled images."""
    _measure("convert", file, options)


@command(
    app,
    diagnostics.benchmark,
    "fasticcl bench all inat2018 --data data/inat2018 --json result.json",
    name="all",
)
def everything(*, file: JsonFile = None, **options: Any) -> None:
    """Run all benchmarks and print a Markdown page to paste into an issue.

    The loader is measured with the batches of a run and, if a CPU trains smaller ones, also with those.
    --phase selects the phase in which end-to-end training is measured.
    """
    _measure("all", file, options)


def _measure(what: str, file: Path | None, options: dict[str, Any]) -> None:
    """Run a benchmark, print its tables and write the result to a file."""
    from fasticcl.bench.result import markdown, tables

    if file and not file.parent.is_dir():
        raise UserError(f"There is no folder {file.parent} for --json. Create it first.")
    keep_freed_memory(options.get("device"))  # as in training
    console = persistent_console()
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
