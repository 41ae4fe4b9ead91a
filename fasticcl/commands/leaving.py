"""Ending with an exit code."""

import os
import sys
import time
from typing import NoReturn

import typer


def leave(code: int, message: str) -> NoReturn:
    """Say why on standard error and end the process."""
    if rank := int(os.environ.get("RANK", "0")):
        # What all ranks have to say is said once: torchrun ends the others when the first has ended.
        time.sleep(10)
        message = f"rank {rank}: {message}"
    typer.echo(message, err=True)
    sys.exit(code)
