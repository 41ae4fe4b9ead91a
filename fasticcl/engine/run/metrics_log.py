"""The lines of ``metrics.jsonl``: appended whole or not at all, and told by how far the run was."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from fasticcl.engine.stages.stage import STAGES


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


def lines_until(checkpoint: dict[str, Any], path: Path) -> str:
    """Return the lines of a file that a checkpoint covers, with those that it holds for want of room."""
    place = (STAGES.index(checkpoint["stage"]), checkpoint["epoch"], checkpoint["step"]) if checkpoint else ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    kept = [line for line in lines if _place(line) <= place]
    # Lines that had to wait for that checkpoint may have been written after it.
    kept += [line for line in checkpoint.get("unwritten", "").splitlines() if line not in kept]
    return "".join(line + "\n" for line in kept)


def _place(line: str) -> tuple[float, ...]:
    """Return how far the run was after what a line of metrics.jsonl tells, as (stage, epoch, step)."""
    try:
        record = json.loads(line)
        return STAGES.index(record["stage"]), record["epoch"] - 1, record["step"]
    except (ValueError, KeyError, TypeError):
        return (math.inf,)  # a line cut short by a crash
