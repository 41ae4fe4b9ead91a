"""The ways in which a command ends early."""

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message is one clear sentence that says what to do next.

    The command line prints it without a traceback and exits with code 2.
    """


class TrainingFailed(Exception):
    """Training cannot go on: the loss is no longer a number, or an image no longer decodes.

    The message names the step or the images, and what to do.
    """


class ExportFailed(Exception):
    """What was written does not compute what the model computes; nothing is left of it.

    The message says by how much, and what to do.
    """


class Stopped(Exception):
    """The run was asked to stop and saved its state.

    Attributes:
        signum: the signal; the exit code is 128 more.
        command: what continues the run.
    """

    def __init__(self, signum: int, command: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.command = signum, command


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean X?`` for the known word closest to ``word``, or the whole list."""
    known = list(known)
    begun = [name for name in known if word and name.startswith(word)]
    close = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
