"""The command that computes a table or figure of the paper."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from fasticcl.api import reproduction as api
from fasticcl.cli.command import Json, Quiet, command
from fasticcl.cli.terminal import leave, persistent_console
from fasticcl.console import print_lines

if TYPE_CHECKING:
    from fasticcl.reproduce.reproduction import Reproduction
    from fasticcl.reproduce.runner import Failure

app = typer.Typer()


@command(
    app,
    api.reproduce,
    "fasticcl reproduce table1 --dry-run",
    "fasticcl reproduce table1 --rows ce,crt,iccl --columns cifar100-lt-100",
    "fasticcl reproduce table1 --on demo --epochs 4 --seeds 1",
    "fasticcl reproduce table6 --part 1/4 --jobs 2",
)
def reproduce(*, json_output: Json = False, quiet: Quiet = False, **options: Any) -> None:
    """Compute a table or figure of the paper.

    Trains the runs that do not exist yet, several at the same time with --jobs, and writes the table with
    the figures of the paper beside it. The same command continues after an interruption. The exit code is 1
    if runs have failed.
    """
    console = persistent_console(stderr=json_output, quiet=quiet)
    outcome = api.reproduce(**options, console=console)
    if outcome.result is None:
        _print_dry_run(outcome, console, json_output)
        return
    if json_output:
        (file,) = (path for path in outcome.files if path.suffix == ".json")
        typer.echo(file.read_text(encoding="utf-8"), nl=False)
    else:
        from fasticcl.reproduce.table.terminal import terminal_notes, terminal_table

        console.print(terminal_table(outcome.result))
        print_lines(console, terminal_notes(outcome.result))
    print_lines(console, [f"written  {path}" for path in outcome.files])
    if outcome.failures:
        leave(1, failure_message(outcome.failures))


def _print_dry_run(outcome: "Reproduction", console: Console, json_output: bool) -> None:
    from fasticcl.reproduce.dry_run import as_dict, plan_lines, plan_table

    plan, estimate, part = outcome.plan, outcome.estimate, outcome.part
    assert estimate is not None
    if json_output:
        typer.echo(json.dumps(as_dict(plan, estimate, part)))
        return
    console.print(plan_table(plan, estimate))
    print_lines(console, plan_lines(plan, estimate, part))


def failure_message(failures: "Sequence[Failure]") -> str:
    """Return the error of a command whose runs have failed, with their logs."""
    lines = [f"error: {len(failures)} run{'s' * (len(failures) > 1)} failed or could not start:"]
    for failure in failures:
        log = f" (see {failure.log})" if failure.log else ""
        lines.append(f"  {failure.job.folder}: {failure.reason}{log}")
    return "\n".join([*lines, "The same command tries again."])
