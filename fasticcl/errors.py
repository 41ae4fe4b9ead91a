"""What a person did wrong, said in one sentence."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message is one clear sentence that says what to do next.

    The command line prints it without a traceback and exits with code 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean X?`` for the known word closest to ``word``, or the whole list."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
