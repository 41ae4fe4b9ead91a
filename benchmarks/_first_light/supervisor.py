"""Runs checks in a worker process, limits their time and records one row for each.

All checks share one worker, because importing torch and DALI takes seconds. After a check that failed, was
stopped or ended the process, the next one gets a new worker, because a CUDA error affects all later work of
its process. If regions of images cannot be decoded, all later checks decode whole images. This module imports
only the standard library, so a broken installation is a failed check.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from _gpu.rows import Rows

from _first_light.checks import REGIONS, Check
from _first_light.report import ROOT
from _first_light.setup import Setup

PART = "first light"
_POLL = 0.5  # seconds after which the worker is checked for its end


class Worker:
    """A process that runs checks.

    Args:
        arguments: options of `_first_light.worker`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._messages, write = os.pipe()
        command = [sys.executable, "-m", "_first_light.worker", *arguments, "--messages", str(write)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[write], start_new_session=True, env=environment()
        )
        os.close(write)
        self._buffer = b""

    def run(self, target: str, limit: float) -> dict[str, Any]:
        """Return the last state that a check sent, with its result.

        Args:
            target: module and function of the check.
            limit: seconds after which the check has failed. The worker must then be closed.
        """
        assert self.process.stdin
        deadline = time.monotonic() + limit
        state: dict[str, Any] = {"failures": [], "skipped": {}, "figures": {}, "part": ""}
        try:
            self.process.stdin.write(f"{target}\n".encode())
            self.process.stdin.flush()
            while "result" not in state:
                state = self._next_message(deadline)
        except TimeoutError:
            return _failed(state, f"stopped after {limit:.0f} s")
        except (EOFError, OSError):
            return _failed(state, exit_reason(self.process.wait()))
        return state

    def close(self) -> None:
        """Kill the process and its descendants."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin
        self.process.stdin.close()
        os.close(self._messages)

    def _next_message(self, deadline: float) -> dict[str, Any]:
        """Return the next message.

        Raises:
            TimeoutError: there is none before the deadline.
            EOFError: the process has ended.
        """
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            # A descendant may hold the pipe open after the process has ended.
            ended = self.process.poll() is not None
            readable, _, _ = select.select([self._messages], [], [], 0 if ended else min(left, _POLL))
            chunk = os.read(self._messages, 1 << 16) if readable else b""
            if not chunk and (ended or readable):
                raise EOFError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


def run_checks(checks: Iterable[Check], setup: Setup, rows: Rows) -> list[dict[str, Any]]:
    """Run checks one after the other, print a table of the results and return the rows.

    Each row is on disk before the next check starts. The table is also printed if a signal ends the checks.
    """
    worker, finished = None, []
    try:
        for check in checks:
            left = rows.budget - rows.elapsed
            began = rows.elapsed
            if left < min(check.least, check.limit):
                state: dict[str, Any] = {"result": "skipped", "reason": f"only {max(0, left):.0f} s are left"}
            else:
                worker = worker or Worker(setup.arguments())
                state = worker.run(check.target, min(check.limit * setup.patience, left))
            row = row_of(check, state, rows.elapsed - began)
            row |= {} if setup.decode_regions else {"decode_regions": False}
            rows.write(PART, check.name, row)
            print(json.dumps({"row": check.name, **row}), flush=True)
            finished.append({"name": check.name, **row})
            if worker and row["result"] == "failed":
                worker.close()
                worker = None
            if REGIONS in (state.get("failed_parts") or ()) and setup.decode_regions:
                setup = replace(setup, decode_regions=False)
                print("Regions cannot be decoded, so all later checks decode whole images.", flush=True)
    finally:
        if worker:
            worker.close()
        print(summary(finished), flush=True)
    return finished


def row_of(check: Check, state: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return the row of a check. A result other than ok has an ``error`` or a ``reason``."""
    row: dict[str, Any] = {"check": check.number, "result": state["result"], "seconds": round(seconds, 1)}
    if failures := state.get("failures"):
        row["error"] = failures[0]
        row |= {"further_errors": failures[1:]} if failures[1:] else {}
    if reason := state.get("reason"):
        row["reason"] = reason
    for optional in ("note", "skipped"):
        if state.get(optional):
            row[optional] = state[optional]
    return {**row, "figures": state.get("figures", {})}


def _failed(state: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """Return the state of a check that did not end, with its figures so far."""
    where = f", in {state['part']}" if state["part"] else ""
    parts = [*state.get("failed_parts", ()), state["part"]]
    failures = [*state["failures"], reason + where]
    return {**state, "result": "failed", "failures": failures, "failed_parts": parts}


def exit_reason(code: int) -> str:
    """Return how a process ended: by which signal or with which exit code."""
    if code < 0:
        return f"the process was killed by {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"


def environment() -> dict[str, str]:
    """Return the environment of a worker: this checkout first, and a compile cache that all workers share."""
    paths = [str(ROOT / "benchmarks"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    cache = Path(tempfile.gettempdir(), "fasticcl-first-light-inductor")
    defaults = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_WAIT_POLICY": "PASSIVE"}
    fixed = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    return {**defaults, **os.environ, **fixed}


def summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of the results."""
    lines = ["", f"{'check':<20} {'result':<8} {'s':>6}"]
    for row in rows:
        note = row.get("error") or row.get("reason") or row.get("note") or ""
        more = len(row.get("further_errors", ()))
        note += f" (and {more} more)" if more else ""
        note = f"{note} [whole images]".lstrip() if row.get("decode_regions") is False else note
        name = f"{row['check']} {row['name']}"
        lines.append(f"{name:<20} {row['result']:<8} {row['seconds']:>6.1f}  {note}".rstrip())
    return "\n".join(lines)
