"""The subprocess that trains a run."""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fasticcl.reproduce.job import Job
from fasticcl.reproduce.training.slots import Slot
from fasticcl.system.parent_process import child_environment

PROGRAM = (sys.executable, "-m", "fasticcl")


class RunProcess:
    """A run that a subprocess trains. Its output is appended to a log.

    The process does not receive the signals of this terminal. If this process is killed, the run saves its
    state and ends.

    Args:
        job: the run.
        words: the words after ``fasticcl``.
        slot: its share of the machine.
        log: the log file.

    Raises:
        OSError: the log cannot be written.
    """

    def __init__(self, job: Job, words: Sequence[str], slot: Slot, log: Path) -> None:
        self.job, self.slot, self.log = job, slot, log
        self.command = shlex.join(["fasticcl", *words])
        self._began, self._has_trained = time.monotonic(), False
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            output.write(f"$ {self.command}\n".encode())
            self._start_of_output = output.tell()
            output.flush()
            self._process = subprocess.Popen(
                [*PROGRAM, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**child_environment(), **slot.environment},
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def poll(self) -> int | None:
        """Return the exit code, the negative number of a signal that killed the process, or None."""
        self._has_trained |= catches_sigterm(self._process.pid)
        return self._process.poll()

    def stop(self) -> None:
        """Let the run save its state and end.

        A run that is stopping already, because a batch system has signalled all processes, or that writes its
        results is left alone. Another signal would end it before it has written its files.
        """
        if catches_sigterm(self._process.pid) or not self._has_trained:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()

    def error(self) -> str:
        """Return the reason why the process has failed in one line."""
        with open(self.log, "rb") as file:
            file.seek(self._start_of_output)
            output = file.read().decode(errors="replace")
        return error_line(output, self._process.poll() or 0)


def catches_sigterm(process_id: int) -> bool:
    """Return True if a process has a handler for SIGTERM, as a run has while it trains."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:  # it has ended
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))


def error_line(output: str, exit_code: int) -> str:
    """Return the first line of the error in the output of a command.

    Args:
        output: standard output and standard error.
        exit_code: exit code, or the negative number of a signal that killed the command.
    """
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"killed by {name}" + (", perhaps because memory ran out" if name == "SIGKILL" else "")
    if exit_code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return "stopped by a signal"
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith("error: "):
            return lines[number].removeprefix("error: ")
        if lines[number].startswith("Traceback "):
            after = (line for line in lines[number + 1 :] if not line.startswith(" "))
            return next(after, lines[-1])
    return lines[-1] if lines else f"exit code {exit_code} without output"
