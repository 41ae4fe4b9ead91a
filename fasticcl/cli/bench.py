"""The command line of ``fasticcl bench``: parse, call one function, print."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import fasticcl
from fasticcl.cli.broken_pipe import lasting_console
from fasticcl.cli.examples import examples
from fasticcl.cli.options import Assign, Device, Workers
from fasticcl.errors import UserError

app = typer.Typer(
    help="Measure how fast this machine is.\n\nPlan, loader, step, training and conversion, each by itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Dataset = Annotated[
    str | None, typer.Argument(help="A dataset preset; default: that of the shards, else folder.")
]
Data = Annotated[
    Path | None, typer.Option(help="Folder of the shards; default: images that are made.", metavar="DIR")
]
Images = Annotated[int | None, typer.Option(min=20, help="How many images are made.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Pairs of images in a step.")]
ImageSize = Annotated[int | None, typer.Option(min=1, help="Side that the network sees, in pixels.")]
Encoder = Annotated[str | None, typer.Option(help="resnet50, resnext50_32x4d, …", metavar="NAME")]
Phase = Annotated[
    str | None, typer.Option(help="warmup, interpolative (default) or rebalance.", metavar="PHASE")
]
Repeats = Annotated[int, typer.Option(min=1, help="Runs of each measurement.")]
Seconds = Annotated[float | None, typer.Option(min=0.01, help="Length of a run; default: 1.5, with a GPU 3.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file, such as config.toml of a run.", metavar="FILE"),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result into this file.", metavar="FILE")]


@app.command(
    epilog=examples(
        "fasticcl bench plan inat2018 --data data/inat2018",
    )
)
def plan(
    dataset: Dataset = None,
    data: Data = None,
    batch_size: BatchSize = None,
    phase: Phase = None,
    repeats: Repeats = 5,
    seconds: Seconds = None,
    config: Config = None,
    assign: Assign = None,
    file: Json = None,
) -> None:
    """Images per second that the plan draws, without reading any."""
    _measure("plan", **locals())


@app.command(
    epilog=examples(
        "fasticcl bench loader",
        "fasticcl bench loader inat2018 --data data/inat2018 --workers 16",
    )
)
def loader(
    dataset: Dataset = None,
    data: Data = None,
    images: Images = None,
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    phase: Phase = None,
    device: Device = None,
    workers: Workers = None,
    repeats: Repeats = 5,
    seconds: Seconds = None,
    config: Config = None,
    assign: Assign = None,
    file: Json = None,
) -> None:
    """Images per second that the loader gives while nobody uses them."""
    _measure("loader", **locals())


@app.command(
    epilog=examples(
        "fasticcl bench step inat2018 --phase warmup",
    )
)
def step(
    dataset: Dataset = None,
    data: Data = None,
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    encoder: Encoder = None,
    phase: Phase = None,
    device: Device = None,
    repeats: Repeats = 5,
    seconds: Seconds = None,
    config: Config = None,
    assign: Assign = None,
    file: Json = None,
) -> None:
    """Images per second that a training step takes, on synthetic batches that are on the device."""
    _measure("step", **locals())


@app.command(
    epilog=examples(
        "fasticcl bench train inat2018 --data data/inat2018",
        "fasticcl bench train -c runs/inat2018/iccl-1/config.toml --json result.json",
    )
)
def train(
    dataset: Dataset = None,
    data: Data = None,
    images: Images = None,
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    encoder: Encoder = None,
    phase: Phase = None,
    device: Device = None,
    workers: Workers = None,
    repeats: Repeats = 5,
    seconds: Seconds = None,
    config: Config = None,
    assign: Assign = None,
    file: Json = None,
) -> None:
    """Training end to end on shards, beside loader and step alone: which binds, and what to change."""
    _measure("train", **locals())


@app.command(
    epilog=examples(
        "fasticcl bench convert --data IMAGES",
    )
)
def convert(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images, as `fasticcl convert folder` reads it; default: images that are made.",
            metavar="DIR",
        ),
    ] = None,
    images: Annotated[int | None, typer.Option(min=20, help="How many images; default: 256.")] = None,
    workers: Workers = None,
    repeats: Repeats = 5,
    seconds: Seconds = None,
    file: Json = None,
) -> None:
    """Images per second that conversion makes shards of, bytes kept and made smaller."""
    _measure("convert", **locals())


@app.command("all", epilog=examples("fasticcl bench all inat2018 --data data/inat2018 --json result.json"))
def everything(
    dataset: Dataset = None,
    data: Data = None,
    images: Images = None,
    batch_size: BatchSize = None,
    image_size: ImageSize = None,
    encoder: Encoder = None,
    phase: Phase = None,
    device: Device = None,
    workers: Workers = None,
    repeats: Repeats = 5,
    seconds: Seconds = None,
    config: Config = None,
    assign: Assign = None,
    file: Json = None,
) -> None:
    """All of it, and a page in Markdown to paste in an issue; --phase is the one trained end to end."""
    _measure("all", **locals())


def _measure(what: str, *, file: Path | None = None, assign: list[str] | None = None, **options: Any) -> None:
    from fasticcl.bench.result import markdown, tables
    from fasticcl.console import print_lines
    from fasticcl.system.allocator import keep_freed_memory

    if file and not file.parent.is_dir():
        raise UserError(f"There is no folder {file.parent} for --json; make it first.")
    keep_freed_memory()  # as in training; the process is ours
    console = lasting_console()
    with Console(stderr=True).status("starting") as status:
        result = fasticcl.benchmark(what, set=assign or (), say=status.update, **options)
    for table in tables(result):
        console.print(table)
    if what == "all":
        print_lines(console, ["", markdown(result)])
    else:
        lines = [*([result.advice] if result.advice else []), *(f"note: {each}" for each in result.notes)]
        print_lines(console, lines)
    if file:
        try:
            file.write_text(
                json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise UserError(f"Cannot write {file}: {error.strerror}.") from None
