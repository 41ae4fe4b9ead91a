"""Verbs that look at the machine."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import fasticcl
from fasticcl import tables

app = typer.Typer()


@app.command()
def doctor(
    data: Annotated[
        Path | None, typer.Option(help="Folder of shards: look at them and their disk too.", metavar="DIR")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is wrong with this machine and what to do; exit code 1 if anything keeps it from training."""
    with Console(stderr=True).status("looking at the machine"):
        findings = fasticcl.doctor(data)
    if json_output:
        typer.echo(json.dumps([finding.to_dict() for finding in findings], indent=1, ensure_ascii=False))
    else:
        tables.print_lines(Console(), tables.health(findings))
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(1)
