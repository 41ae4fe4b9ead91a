"""Subprocesses that end with the process that started them, even if it is killed."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping

_VARIABLE = "FASTICCL_PARENT"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment with which a subprocess that calls `end_with_parent` ends with this process."""
    return {**environment, _VARIABLE: str(os.getpid())}


def end_with_parent(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let SIGTERM end this process as soon as its parent has ended, if `child_environment` requests it.

    Linux sends the signal when the thread that started this process ends.
    """
    parent = environment.pop(_VARIABLE, None)  # subprocesses of this process do not inherit the request
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the call
        sys.exit(128 + signal.SIGTERM)
