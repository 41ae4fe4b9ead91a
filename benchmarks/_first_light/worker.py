"""The process in which the checks run: ``python -m _first_light.worker --messages FD …``.

The supervisor writes the target of the next check to standard input and reads JSON lines from the file
descriptor FD. When standard input ends, because the supervisor has ended, the process and all processes that
it has started are killed.
"""

import argparse
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

from _first_light.report import Report, Skipped, describe
from _first_light.setup import Setup, add_options


def main() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument("--messages", type=int, required=True)
    options = parser.parse_args()
    setup = Setup.from_options(options)
    targets: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=receive, args=(targets,), daemon=True).start()
    with os.fdopen(options.messages, "w", encoding="utf-8") as messages:
        while True:
            run_check(targets.get(), setup, messages)


def receive(targets: "queue.SimpleQueue[str]") -> None:
    """Queue the lines of standard input. At its end, kill this process and its descendants."""
    for line in sys.stdin:
        targets.put(line.strip())
    os.killpg(os.getpgrp(), signal.SIGKILL)  # the supervisor starts every worker in a session of its own


def run_check(target: str, setup: Setup, messages: TextIO) -> None:
    """Run a check and send its state after every change, and then its result."""

    def send(state: Mapping[str, Any]) -> None:
        messages.write(json.dumps(state) + "\n")
        messages.flush()

    report, reason = Report(send), ""
    module, _, function = target.partition(":")
    try:
        getattr(importlib.import_module(module), function)(setup, report)
    except Skipped as skipped:
        reason = str(skipped)
    except BaseException as error:  # the next check still runs, also after a SystemExit
        traceback.print_exc()
        report.failures.append(describe(error))
    result = "skipped" if reason else "failed" if report.failures else "ok"
    send({**report.state(), "result": result, "reason": reason})


if __name__ == "__main__":
    main()
