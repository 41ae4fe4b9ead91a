"""The lines of ``metrics.jsonl``: appended whole or not at all, and told by how far the run was."""

import errno
import json
import math
import os
from pathlib import Path

from fasticcl.engine.stage import STAGES


def sync(path: Path) -> None:
    """Have what was appended reach the disk."""
    with open(path, "ab") as file:
        os.fsync(file.fileno())


def append(path: Path, text: str) -> None:
    """Append lines to a file, or nothing at all."""
    content = text.encode()
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise


def position(line: str) -> tuple[float, ...]:
    """Return how far the run was after what a line of metrics.jsonl tells, as (stage, epoch, step)."""
    try:
        record = json.loads(line)
        return STAGES.index(record["stage"]), record["epoch"] - 1, record["step"]
    except (ValueError, KeyError, TypeError):
        return (math.inf,)  # a line cut short by a crash
