"""The command line: all verbs, and how it ends."""

import signal
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from fasticcl.cli import datasets, diagnostics, models, training
from fasticcl.cli.bench import app as bench
from fasticcl.cli.terminal import ending_with_its_reader, leave
from fasticcl.errors import ExportFailed, Stopped, TrainingFailed, UserError
from fasticcl.system import rank_environment
from fasticcl.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verbs in (training.app, models.app, datasets.app):
    app.add_typer(verbs)
app.add_typer(bench, name="bench")
app.add_typer(diagnostics.app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fasticcl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Train image classifiers on long-tailed data with ICCL, fed by NVIDIA DALI."""


def main() -> NoReturn:
    """Run the command line: 0 done, 1 failed, 2 bad input, 130 or 143 stopped by a signal.

    Without a reader of its output it ends by SIGPIPE, but for the verbs that work on (`lasting_console`).
    """
    # What is wrong with an image is said in quarantine.jsonl, where it belongs.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        with ending_with_its_reader():
            app()
    except UserError as error:
        leave(2, f"error: {error}")
    except (TrainingFailed, ExportFailed) as error:
        leave(1, f"error: {error}")
    except Stopped as stopped:
        # SIGUSR1 is how SLURM says that SIGTERM will come.
        code = 128 + (signal.SIGINT if stopped.signum == signal.SIGINT else signal.SIGTERM)
        if rank_environment.rank():
            sys.exit(code)  # rank 0 says it for all
        leave(code, f"\n{stopped}; the state is saved. Continue with:\n  {stopped.command}")
    except SystemExit as left:
        if left.code == 128 + signal.SIGINT:  # typer turns a Ctrl-C into it
            leave(128 + signal.SIGINT, "interrupted")
        raise
    sys.exit(0)
