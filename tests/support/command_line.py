"""The command line in a subprocess."""

import subprocess
import sys


def cli_command(*arguments: object, before: str = "") -> list[str]:
    """Return a command that runs ``fasticcl ARGUMENTS`` after the Python code ``before``."""
    script = f"import sys; {before or 'pass'}\nfrom fasticcl.cli.main import main\nmain()"
    return [sys.executable, "-c", script, *map(str, arguments)]


def run_cli_subprocess(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``fasticcl ARGUMENTS`` in a subprocess and return the finished process with its output."""
    return subprocess.run(cli_command(*arguments, before=before), capture_output=True, text=True)


UNPRIVILEGED = """
import ctypes, os
for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which root has
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
if not os.environ.get("DROPPED"):
    os.environ["DROPPED"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
"""
"""Python code for ``before`` that makes file permissions apply to root too."""
