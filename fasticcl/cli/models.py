"""The verbs that use trained models: parse, call one function, print."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

import fasticcl
from fasticcl.cli import tables
from fasticcl.cli.examples import examples
from fasticcl.cli.exit import leave
from fasticcl.cli.options import Device, Workers
from fasticcl.cli.output import opened
from fasticcl.console import print_lines
from fasticcl.predict.predictions import OutputFormat, write_predictions

app = typer.Typer()


@app.command(
    epilog=examples(
        "fasticcl predict runs/demo/iccl-1 holiday/*.jpg",
        "fasticcl predict runs/demo/iccl-1 photos --topk 1 --format csv --output labels.csv",
    )
)
def predict(
    model: Annotated[Path, typer.Argument(help="A run folder, or the model.safetensors of one.")],
    images: Annotated[list[Path], typer.Argument(help="Files, folders, shards or tars.", metavar="IMAGES")],
    topk: Annotated[int, typer.Option(min=1, help="Classes per image, the likeliest first.")] = 5,
    format: Annotated[
        OutputFormat,
        typer.Option(
            help="A line an image; or for programs, csv: a line a class, jsonl: an object an image."
        ),
    ] = "table",
    output: Annotated[
        Path | None, typer.Option(help="Where to write; default: standard output.", metavar="FILE")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="The best epoch's weights, not the last's.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    device: Device = None,
    workers: Workers = None,
) -> None:
    """Name the classes of images, with probabilities.

    An image that cannot be read is a row with its error, and they are counted on standard error. Exit
    code 0: at least one image was predicted; 1: none.
    """
    from fasticcl.system.allocator import keep_freed_memory

    keep_freed_memory()  # the process is ours
    predictions = fasticcl.predict(
        model, images, topk=topk, best=best, batch_size=batch_size, device=device, workers=workers
    )
    with opened(output) as file:
        count, errors = write_predictions(predictions, file, format)
    if output:
        typer.echo(f"{output}: {count:,} images", err=True)
    if errors:
        leave(0 if errors < count else 1, f"{errors:,} of {count:,} images could not be read.")


@app.command(
    epilog=examples(
        "fasticcl export runs/demo/iccl-1",
        "fasticcl export runs/demo/iccl-1 --format pt2 --input float --output classifier.pt2",
    )
)
def export(
    model: Annotated[
        Path, typer.Argument(help="Folder of a finished run, or its model.safetensors.", metavar="MODEL")
    ],
    format: Annotated[
        str, typer.Option(help="onnx, pt2 (torch.export) or safetensors.", metavar="FORMAT")
    ] = "onnx",
    output: Annotated[
        Path | None, typer.Option(help="The file; default: beside the weights.", metavar="FILE")
    ] = None,
    input: Annotated[
        Literal["uint8", "float"],
        typer.Option(help="uint8: [B, S, S, 3] from 0 to 255; float: [B, 3, S, S] from 0 to 1."),
    ] = "uint8",
    best: Annotated[
        bool, typer.Option("--best", help="The weights of the best epoch, chosen on the evaluated split.")
    ] = False,
) -> None:
    """Write a model for other programs.

    With a MODEL_CARD.md beside it. The file gets its name when it has computed what PyTorch computes;
    exit code 1 if it does not.
    """
    exported = fasticcl.export(model, format=format, output=output, input=input, best=best)
    print_lines(Console(), tables.exported(exported))
