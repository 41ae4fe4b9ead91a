"""Subprocesses of a command, and functions in child processes that are killed or form several ranks.

The functions run in processes forked from a server that has already imported the package, which saves seconds
per process.
"""

import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from fasticcl.system.ranks import join_process_group

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preloaded"])
_TIMEOUT = 120


@contextmanager
def started_process(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen]:
    """Start a subprocess and wait for its end, or kill it if the test fails or times out."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


class Child:
    """A process that calls an importable function and sends back its result. Its output goes to a file."""

    def __init__(self, log, function, *arguments, env=(), **options):
        self.log = log
        self._receiver, sender = _context.Pipe(duplex=False)
        self.process = _context.Process(
            target=_call, args=(str(log), sender, dict(env), [*sys.path], function, arguments, options)
        )
        self.process.start()
        sender.close()
        self.pid = self.process.pid

    def result(self):
        """Return the result of the function. Raise AssertionError if it raised an exception."""
        returned, value = self.raw()
        if not returned:
            raise AssertionError(f"{value}\n{self.printed()}")
        return value

    def raw(self):
        """Return (True, result), (False, exception text) or (None, exit code)."""
        assert self._receiver.poll(_TIMEOUT), self.printed()
        try:
            return self._receiver.recv()
        except EOFError:
            return None, self.exit_code()

    def exit_code(self):
        self.process.join(_TIMEOUT)
        assert self.process.exitcode is not None, self.printed()
        return self.process.exitcode

    def printed(self):
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, signum):
        os.kill(self.pid, signum)

    def kill(self):
        """Kill the process and return True if it was still running."""
        alive = self.process.is_alive()
        self.process.kill()
        self.process.join()
        return alive and self.process.exitcode == -9


def _call(log, sender, env, path, function, arguments, options):
    os.environ.update(env)
    sys.path[:] = path
    torch.set_num_threads(1)
    with open(log, "a", buffering=1) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        answer, code = (True, function(*arguments, **options)), 0
    except SystemExit as left:
        code = left.code or 0
        answer = (None, code) if code else (True, None)
    except BaseException as error:
        traceback.print_exc()
        answer, code = (False, f"{type(error).__name__}: {error}"), 1
    sys.stdout.flush()
    sender.send(answer)
    sender.close()
    os._exit(code)


def call_main(*words):
    """Run the command ``fasticcl WORDS`` in a `Child`."""
    from fasticcl.cli.main import main

    sys.argv = ["fasticcl", *map(str, words)]
    main()


def call_main_in(folder, *words):
    """Run the command ``fasticcl WORDS`` in a folder, in a `Child`."""
    os.chdir(folder)
    call_main(*words)


def start_ranks(log, world_size, function, *arguments, **options):
    """Start a function on several connected ranks and return the children."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=_TIMEOUT))
    children = []
    for rank in range(world_size):
        env = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": store.port,
            # The store runs here, so that no other process can take its port.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        env = {name: str(value) for name, value in env.items()}
        children.append(Child(log.with_suffix(f".{rank}"), function, *arguments, env=env, **options))
        children[-1].store = store
    return children


def on_ranks(log, world_size, function, *arguments, **options):
    """Run a function on several ranks and return the results. If one fails, the others are killed."""
    children = start_ranks(log, world_size, function, *arguments, **options)
    try:
        return [child.result() for child in children]
    finally:
        for child in children:
            child.kill()


def _tensors_on_rank(function):
    # As tensors, they would be sent through shared memory, which disappears with the process.
    results = function(join_process_group(gpu=None))
    return {name: torch.as_tensor(value).numpy() for name, value in results.items()}


def tensors_on_ranks(log, world_size, function):
    """Return, for each rank, the tensors by name that ``function(ranks)`` returned."""
    results = on_ranks(log, world_size, _tensors_on_rank, function)
    return [{name: torch.from_numpy(value) for name, value in result.items()} for result in results]
