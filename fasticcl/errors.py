"""Exceptions of fasticcl. The command line prints them without a traceback."""

import difflib
import signal
from collections.abc import Iterable


class FasticclError(Exception):
    """Base class of the exceptions of fasticcl."""


class UserError(FasticclError):
    """Invalid input. The message states what is wrong and what to do. Exit code 2."""


class TrainingFailed(FasticclError):
    """Training cannot continue, for example because the loss is not finite. Exit code 1.

    The message states the reason, such as the step or the images, and what to do.
    """


class ExportFailed(FasticclError):
    """The outputs of an exported file do not match those of the model. No file is kept. Exit code 1.

    The message states the difference, and what to do.
    """


class Stopped(FasticclError):
    """A run was stopped by a signal and has saved its state. Exit code 130 or 143.

    Attributes:
        signum: number of the signal.
        command: command that continues the run.
    """

    def __init__(self, signum: int, command: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.command = signum, command


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``Did you mean X?`` with the known word closest to ``word``, or a list of all known words."""
    known = list(known)
    prefixed = [name for name in known if word and name.startswith(word)]
    close = prefixed or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
