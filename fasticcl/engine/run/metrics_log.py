"""The records of a run: ``metrics.jsonl``, one line per record, and ``results.csv``, one row per epoch.

Lines are appended atomically. On resume, the log is truncated to the position of the checkpoint.
"""

import csv
import errno
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from fasticcl.engine.evaluate import METRICS, is_evaluated
from fasticcl.engine.run.checkpoint import Checkpoint, Record
from fasticcl.engine.run.deferred_writes import DeferredWrites
from fasticcl.engine.run.writer_thread import WriterThread
from fasticcl.engine.stages.stage import STAGES
from fasticcl.files import write_file

METRICS_LOG = "metrics.jsonl"
RESULTS = "results.csv"
_COLUMNS = ("stage", "epoch", "phase", "optim/lr", "train/loss", *METRICS)


class MetricsLog:
    """Writes the records of a run and keeps those of its finished epochs.

    Args:
        files: writes the files.
        thread: runs all writes.
    """

    def __init__(self, files: DeferredWrites, thread: WriterThread) -> None:
        self.files, self._thread = files, thread
        self.on_record: Callable[[Record], None] = lambda _: None
        """Called on rank 0 with every record, after NaN and inf are replaced by None."""
        self.epochs: list[Record] = []
        """One record per finished epoch."""
        self.unwritten = ""
        """Lines that could not be written yet. Only the writer thread uses it."""

    def log(self, record: Record) -> None:
        """Append a line to ``metrics.jsonl``, with null for NaN and inf, which JSON cannot represent."""
        if not self.files.enabled:
            return
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps(clean) + "\n"
        self._thread.submit(lambda: self._write_line(line))
        self.on_record(clean)

    def _write_line(self, line: str) -> None:
        self.unwritten += line
        self.files.write(METRICS_LOG, self._append_unwritten)

    def _append_unwritten(self, path: Path) -> None:
        append(path, self.unwritten)
        self.unwritten = ""

    def finish_epoch(self, record: Record) -> None:
        """Log the record of an epoch and rewrite ``results.csv``."""
        self.log(record)
        self.epochs.append(record)
        self._write_results()

    def _write_results(self) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, _COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(self.epochs)
        content = table.getvalue().encode()
        self._thread.submit(lambda: self.files.write(RESULTS, lambda path: write_file(path, content)))

    def best(self, stage: str) -> Record | None:
        """Return the evaluated epoch of a stage with the highest accuracy. The earliest wins a tie."""
        evaluated = (e for e in self.epochs if e["stage"] == stage and is_evaluated(e))
        return max(evaluated, key=lambda e: e["val/top1"], default=None)

    def last(self, stage: str) -> Record | None:
        """Return the record of the last finished epoch of a stage."""
        return next((e for e in reversed(self.epochs) if e["stage"] == stage), None)

    def sync(self) -> None:
        """Sync the log to the disk, unless lines could not be written."""
        if METRICS_LOG not in self.files.pending:
            self.files.try_write(METRICS_LOG, _fsync)

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Restore both files to their state at a checkpoint, or before the first step if it is None.

        Raises:
            OSError: ``metrics.jsonl`` cannot be written.
        """
        self.epochs = [*checkpoint.epochs] if checkpoint else []
        if self.files.enabled:
            path = self.files.folder / METRICS_LOG
            write_file(path, _lines_until(checkpoint, path).encode())
            self._write_results()


def append(path: Path, text: str) -> None:
    """Append text to a file, completely or not at all."""
    content = text.encode()
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise


def _fsync(path: Path) -> None:
    with open(path, "ab") as file:
        os.fsync(file.fileno())


def _lines_until(checkpoint: Checkpoint | None, path: Path) -> str:
    """Return the lines up to a checkpoint, including those that were unwritten when it was saved."""
    if checkpoint is None:
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    kept = [line for line in lines if _position(line) <= checkpoint.position]
    # Lines that were unwritten at the checkpoint may have been written after it.
    kept += [line for line in checkpoint.unwritten.splitlines() if line not in kept]
    return "".join(line + "\n" for line in kept)


def _position(line: str) -> tuple[float, ...]:
    """Return the progress of the run after a line, as in `Checkpoint.position`."""
    try:
        record = json.loads(line)
        stage, epoch = STAGES.index(record["stage"]), record["epoch"]
        if "val/top1" in record:  # this record ends the epoch, and its last step may have a checkpoint
            return stage, epoch, 0
        return stage, epoch - 1, record["step"]
    except (ValueError, KeyError, TypeError):
        return (math.inf,)  # truncated by a crash
