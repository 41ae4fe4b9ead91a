"""A replacement of `subprocess.Popen` that forks Python programs, which saves their imports.

It is for children of the fork server, which have imported the package but started no threads of DALI.
"""

import os
import runpy
import subprocess
import sys
import time
import traceback

_popen = subprocess.Popen


def run_script(script, *words, path=()):
    """Run a script in a `Child`, and the Python programs that it starts as forks.

    Args:
        script: the script.
        words: its arguments.
        path: folders that precede the folder of the script in ``sys.path``.
    """
    sys.path[:0] = [*map(str, path), str(script.parent)]
    subprocess.Popen = forked_popen
    sys.argv = [str(script), *map(str, words)]
    runpy.run_path(str(script), run_name="__main__")


def forked_popen(command, **options):
    """Start ``python -m MODULE …`` or ``python SCRIPT …`` as a fork of this process, and others as always."""
    if command[0] == sys.executable and command[1] != "-c":
        return ForkedProgram([*map(str, command[1:])], **options)
    return _popen(command, **options)


class ForkedProgram:
    """The part of the interface of `subprocess.Popen` that the benchmarks use."""

    def __init__(
        self, words, stdin=None, stdout=None, stderr=None, env=None, pass_fds=(), start_new_session=False
    ):
        assert stdin in (None, subprocess.PIPE)
        assert stderr in (None, subprocess.STDOUT)
        del pass_fds  # a fork inherits all of them
        reader, writer = os.pipe() if stdin else (None, None)
        self._code, self.pid = None, os.fork()
        if not self.pid:
            if start_new_session:
                os.setsid()
            if stdin:
                os.close(writer)
                os.dup2(reader, 0)
            # The old object stays referenced, because a thread of the parent may hold its lock.
            sys.stdin = open(0)  # noqa: SIM115
            if stdout:
                os.dup2(stdout.fileno(), 1)
            if stderr:
                os.dup2(1, 2)
            os.environ.update(env or {})
            _run(words)
        if stdin:
            os.close(reader)
            self.stdin = open(writer, "wb")  # noqa: SIM115

    def poll(self):
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("", timeout)
            time.sleep(0.01)
        return self._code

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self):
        self.send_signal(9)


def _run(words):
    """Run a module or script as the main program, and exit with its code."""
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)  # noqa: T201
        code = 1 if isinstance(left.code, str) else left.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
