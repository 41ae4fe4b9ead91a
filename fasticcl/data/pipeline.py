"""A pipeline of DALI's that may be forgotten anywhere."""

import atexit
import gc
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal

from nvidia.dali import Pipeline


class GraphPipeline(Pipeline):
    """DALI's pipeline, which the garbage collector does not end.

    Ending one waits for its threads. The collector works in any thread that runs Python, and a graph on a
    CPU has such threads, for `resizer`: they would wait for themselves, for ever, and so would every graph
    that is run later. What was collected ends with `end_collected`; what is dropped otherwise ends there
    and then.
    """

    def __del__(self) -> None:
        if _collecting:
            _collected.append(self)
        else:
            super().__del__()


_collecting = False
_collected: list[GraphPipeline] = []


def end_collected() -> None:
    """End the pipelines that were collected; call it where no pipeline's thread can come by."""
    while _collected:
        with suppress(IndexError):  # another thread was quicker
            _collected.pop()._shutdown()


def free() -> None:
    """Free what dropped pipelines still hold: DALI's operators refer to themselves."""
    gc.collect()
    end_collected()
    gc.collect()


def _watch_collector(phase: Literal["start", "stop"], _: Mapping[str, int]) -> None:
    global _collecting
    _collecting = phase == "start"


gc.callbacks.append(_watch_collector)
atexit.register(end_collected)
