"""Ending with an exit code."""

import sys
import time
from typing import NoReturn

import typer

from fasticcl.system import rank_environment


def leave(code: int, message: str) -> NoReturn:
    """Say why on standard error and end the process."""
    if rank := rank_environment.rank():
        # What all ranks have to say is said once: torchrun ends the others when the first has ended.
        time.sleep(10)
        message = f"rank {rank}: {message}"
    typer.echo(message, err=True)
    sys.exit(code)
