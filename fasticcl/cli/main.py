"""The command line: its commands and exit codes."""

import signal
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from fasticcl.cli import datasets, diagnostics, models, reproduction, training
from fasticcl.cli.bench import app as bench
from fasticcl.cli.terminal import exit_on_closed_stdout, leave
from fasticcl.errors import ExportFailed, Stopped, TrainingFailed, UserError
from fasticcl.system import rank_environment
from fasticcl.system.parent_process import end_with_parent
from fasticcl.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verbs in (training.app, reproduction.app, models.app, datasets.app):
    app.add_typer(verbs)
app.add_typer(bench, name="bench")
app.add_typer(diagnostics.app)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"fasticcl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train image classifiers on long-tailed data with ICCL and NVIDIA DALI."""


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 invalid input, 130 or 143 signal.

    If standard output is closed early, SIGPIPE ends the process, except for commands that continue
    without output (`persistent_console`).
    """
    end_with_parent()
    # Pillow's warnings about images are redundant, because quarantine.jsonl lists unreadable images.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        with exit_on_closed_stdout():
            app()
    except UserError as error:
        leave(2, f"error: {error}")
    except (TrainingFailed, ExportFailed) as error:
        leave(1, f"error: {error}")
    except Stopped as stopped:
        # SLURM announces SIGTERM with SIGUSR1.
        code = 128 + (signal.SIGINT if stopped.signum == signal.SIGINT else signal.SIGTERM)
        if rank_environment.rank():
            sys.exit(code)  # rank 0 prints the message
        leave(code, f"\n{stopped}. The state is saved. Continue with:\n  {stopped.command}")
    except SystemExit as left:
        if left.code == 128 + signal.SIGINT:  # typer's exit code after Ctrl-C
            leave(128 + signal.SIGINT, "interrupted")
        raise
    sys.exit(0)
