"""Commands that use trained models."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fasticcl.api import models
from fasticcl.cli import tables
from fasticcl.cli.command import command
from fasticcl.cli.terminal import leave, open_output
from fasticcl.console import print_lines
from fasticcl.predict.predictions import OutputFormat, write_predictions
from fasticcl.system.allocator import keep_freed_memory

app = typer.Typer()


@command(
    app,
    models.predict,
    "fasticcl predict runs/demo/iccl-1 holiday/*.jpg",
    "fasticcl predict runs/demo/iccl-1 photos --topk 1 --format csv --output labels.csv",
    before={"format": "best", "output": "best"},
)
def predict(
    *,
    format: Annotated[
        OutputFormat,
        typer.Option(
            help="table: one line per image. csv: one line per image and class. jsonl: one object per image."
        ),
    ] = "table",
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: standard output.", metavar="FILE")
    ] = None,
    **options: Any,
) -> None:
    """Classify images and print the classes with their probabilities.

    The output of an unreadable image contains the error. The number of unreadable images is printed on
    standard error, and the exit code is 1 if no image could be read.
    """
    keep_freed_memory(options.get("device"))
    predictions = models.predict(**options)
    with open_output(output) as file:
        count, errors = write_predictions(predictions, file, format)
    if output:
        typer.echo(f"{output}: {count:,} images", err=True)
    if errors:
        leave(0 if errors < count else 1, f"{errors:,} of {count:,} images could not be read.")


@command(
    app,
    models.export,
    "fasticcl export runs/demo/iccl-1",
    "fasticcl export runs/demo/iccl-1 --format pt2 --input float --output classifier.pt2",
)
def export(**options: Any) -> None:
    """Export a model for other programs.

    A MODEL_CARD.md is written next to the exported file. The file is kept only if its outputs match those of
    PyTorch. Otherwise, the exit code is 1.
    """
    print_lines(Console(), tables.export_summary(models.export(**options)))
