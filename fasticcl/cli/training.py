"""Commands for training and evaluation."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fasticcl.api import training
from fasticcl.cli import tables
from fasticcl.cli.command import Json, Quiet, command
from fasticcl.cli.terminal import persistent_console
from fasticcl.console import print_lines
from fasticcl.resolve import configure
from fasticcl.system import rank_environment
from fasticcl.system.allocator import keep_freed_memory

if TYPE_CHECKING:
    from fasticcl.engine.results import Report

app = typer.Typer()


@command(
    app,
    training.train,
    "fasticcl train demo",
    "fasticcl train inat2018 --epochs 200 --data data/inat2018",
    "fasticcl train folder --data data/folder --set method.encoder=resnet18 --fast-dev-run",
    "fasticcl train inat2018 --name long --resume",
    before={
        "method": "imbalance",
        "recipe": "imbalance",
        "quiet": "fast_dev_run",
        "resume": "fast_dev_run",
        "nproc": "fast_dev_run",
        "print_config": "config",
    },
)
def train(
    *,
    quiet: Quiet = False,
    nproc: Annotated[
        int | None,
        typer.Option(min=1, help="Number of ranks to launch on this machine with torchrun.", metavar="N"),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print the resolved configuration in the format of -c files, and exit."
        ),
    ] = False,
    resume: bool = False,
    **options: Any,
) -> None:
    """Train both stages on a dataset."""
    rank = rank_environment.rank()
    console = Console() if print_config else persistent_console(quiet=quiet or rank > 0)
    if nproc and not print_config and not rank_environment.is_launched_rank():
        from fasticcl.system.launch import launch_ranks

        launch_ranks(nproc, sys.argv[1:])
    if print_config:
        typer.echo(configure(**options).to_toml(), nl=False)
        return
    keep_freed_memory(options.get("device"))
    report = training.train(**options, resume=resume, console=console)
    _print_accuracies(console, report)
    print_lines(console, tables.after_training(report))


def _print_accuracies(console: Console, report: "Report") -> None:
    console.print(tables.accuracy_table(report))
    print_lines(console, tables.paper_note(report))


@command(
    app,
    training.evaluate,
    "fasticcl eval runs/demo/iccl-1",
    "fasticcl eval runs/demo/iccl-1 --json",
    name="eval",
    before={"json_output": "device"},
)
def evaluate(*, json_output: Json = False, **options: Any) -> None:
    """Evaluate the saved weights of a finished run."""
    report = training.evaluate(**options)
    if json_output:
        fields = {"run": str(report.run), "split": report.split, "best_epoch": report.best_epoch}
        paper = {"paper": asdict(report.paper)} if report.paper else {}
        typer.echo(json.dumps(fields | report.rows | paper))
    else:
        _print_accuracies(Console(), report)


@command(
    app,
    training.rebalance,
    "fasticcl rebalance runs/demo/iccl-1 --set rebalance.gamma=0.5 --name half-reverse",
    "fasticcl rebalance runs/demo/ce-1 --method tau-norm",
)
def rebalance(run: Path, *, quiet: Quiet = False, **options: Any) -> None:
    """Repeat the rebalancing stage of a run as a new run.

    Change its settings with --set, or run the second stage of another method with --method. The old run is
    not modified.
    """
    console = persistent_console(quiet=quiet or rank_environment.rank() > 0)
    report = training.rebalance(run, **options, console=console)
    _print_accuracies(console, report)
    new, old = (shlex.quote(str(path)) for path in (report.run, run))
    print_lines(console, [f"Next: fasticcl report {old} {new}    compare both runs"])


@command(
    app,
    training.sweep,
    "fasticcl sweep runs/demo/iccl-1 --over rebalance.distillation_temperature=1,2,5,10,20",
    "fasticcl sweep runs/demo/iccl-1 --over rebalance.gamma=0,1 --over rebalance.lr_factor=0.1,1",
    "fasticcl sweep runs/demo/ce-1 --method tau-norm --over rebalance.tau=0,0.5,1,1.5",
    before={"json_output": "device"},
)
def sweep(*, json_output: Json = False, **options: Any) -> None:
    """Run the rebalancing stage with several settings.

    All settings start from the representation stage of RUN. The best are never chosen on the evaluated
    split.
    """
    console = persistent_console(stderr=json_output)
    result = training.sweep(**options, console=console)
    if json_output:
        typer.echo(json.dumps(result.as_dict()))
        return
    console.print(tables.sweep_table(result))
    print_lines(console, tables.sweep_conclusion(result))
