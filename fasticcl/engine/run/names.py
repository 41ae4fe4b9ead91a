"""Runs beside other runs: names that are free, and those that a person may have meant."""

import shlex
from pathlib import Path

from fasticcl.engine.run.environment import ENVIRONMENT

_NAMED = 5


def free_name(folder: Path, stem: str) -> str:
    """Return ``stem-N`` with the smallest N from 1 that nothing in a folder is called."""
    number = 1
    while (folder / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def runs_nearby(path: Path, having: str = ENVIRONMENT) -> str:
    """Return a sentence that names the runs nearest to where none is, the newest first; none: nothing.

    They lie below ``path``, beside it, under other datasets of its project, or else in ``runs``.

    Args:
        path: where there is no run.
        having: a file that they have; its age is theirs.
    """
    places = [
        (path, "*"),
        (path, "*/*"),
        (path.parent, "*"),
        (path.parent.parent, "*/*"),
        (Path("runs"), "*/*"),
    ]
    found = next(filter(None, ([*place.glob(f"{runs}/{having}")] for place, runs in places)), [])
    found.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    names = [shlex.quote(str(file.parent)) for file in found[:_NAMED]]
    return f" Runs nearby, the newest first: {', '.join(names)}." if names else ""
