"""The verbs that use trained models: parse, call one function, print."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

import fasticcl
from fasticcl import tables

app = typer.Typer()


@app.command()
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
    """Write a trained model for other programs, with a MODEL_CARD.md; exit code 1 if it differs from PyTorch.

    Example: fasticcl export runs/demo/iccl-1 --format onnx
    """
    exported = fasticcl.export(model, format=format, output=output, input=input, best=best)
    tables.print_lines(Console(), tables.exported(exported))
