"""A pipeline of DALI's that may be forgotten anywhere."""

import atexit
import threading
from contextlib import suppress
from typing import Any

from nvidia.dali import Pipeline


class GraphPipeline(Pipeline):
    """DALI's pipeline, which never ends in a thread of a pipeline.

    Ending waits for the pipeline's threads. DALI does it where the pipeline is dropped, and that may be
    anywhere: the garbage collector works in any thread that runs Python, and a graph on a CPU has some that
    do, for `resizer`. In one of those the end would wait for itself, for ever, and every other graph with
    it, because DALI runs one Python function at a time. So a pipeline that is dropped in a thread that has
    made none ends when the next one is made, or with the process.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        _thread.makes_pipelines = True
        _end_dropped()
        super().__init__(*arguments, **options)

    def __del__(self) -> None:
        if not hasattr(_thread, "makes_pipelines"):
            if pipe := getattr(self, "_pipe", None):
                _dropped.append(pipe)
            self._pipe = None
        super().__del__()


_thread = threading.local()
_dropped: list[Any] = []


def _end_dropped() -> None:
    while True:
        try:
            pipe = _dropped.pop()
        except IndexError:
            return
        with suppress(RuntimeError):  # of a device that failed; whoever still uses it is told
            pipe.Shutdown()


atexit.register(_end_dropped)
