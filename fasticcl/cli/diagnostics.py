"""The verbs that look at runs and at the machine: parse, call one function, print."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import fasticcl
from fasticcl.cli import tables
from fasticcl.cli.examples import examples
from fasticcl.cli.options import Device, Workers
from fasticcl.console import print_lines

app = typer.Typer()


@app.command(
    epilog=examples(
        "fasticcl report runs/inat2018/iccl-1",
        "fasticcl report runs/inat2018/iccl-* runs/inat2018/ce-* --output comparison",
    )
)
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.", metavar="RUN...")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the files; default: the run's own, of several ./comparison.",
            metavar="DIR",
        ),
    ] = None,
    device: Device = None,
    workers: Workers = None,
) -> None:
    """Write report.html of a run, or of several.

    Beside it the figures as SVG and PNG, the numbers as JSON and a row for a LaTeX table. Several runs
    are compared: mean and standard deviation over those of one configuration.
    """
    with Console(stderr=True).status("writing the report"):
        page = fasticcl.report(*runs, output=output, device=device, workers=workers)
    print_lines(Console(), [str(page)])


@app.command(
    epilog=examples(
        "fasticcl doctor",
        "fasticcl doctor --data data/inat2018 --json",
    )
)
def doctor(
    data: Annotated[
        Path | None, typer.Option(help="Folder of shards: look at them and their disk too.", metavar="DIR")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is wrong with this machine.

    Every line that is not ok says what to do; exit code 1 if anything keeps it from training.
    """
    with Console(stderr=True).status("looking at the machine"):
        findings = fasticcl.doctor(data)
    if json_output:
        typer.echo(json.dumps([finding.to_dict() for finding in findings], indent=1, ensure_ascii=False))
    else:
        print_lines(Console(), tables.health(findings))
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(1)
