"""A replacement of `subprocess.Popen` that forks Python programs, which saves their imports.

It is for children of the fork server, which have imported the package and started no threads.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys

_context = multiprocessing.get_context("fork")
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
    if command[0] == sys.executable and not command[1].startswith("-c"):
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
        ends = os.pipe() if stdin else ()
        self.stdin = open(ends[1], "wb") if stdin else None  # noqa: SIM115  closed by the caller
        self._process = _context.Process(
            target=_run, args=(words, ends, self.stdin, stdout, stderr, env, start_new_session)
        )
        self._process.start()
        self.pid = self._process.pid
        for end in ends[:1]:
            os.close(end)

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("", timeout)
        return self._process.exitcode

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self):
        self._process.kill()


def _run(words, ends, parents_stdin, stdout, stderr, env, new_session):
    if new_session:
        os.setsid()
    if ends:
        parents_stdin.close()
        os.dup2(ends[0], 0)
        sys.stdin = open(0)  # noqa: SIM115
    if stdout is not None:
        os.dup2(stdout if isinstance(stdout, int) and stdout >= 0 else stdout.fileno(), 1)
    if stderr is not None:
        os.dup2(1, 2)
    os.environ.update(env or {})
    if words[0] == "-m":
        _, name, *words = words
        sys.argv = [name, *words]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
