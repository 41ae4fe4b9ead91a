"""How far a long job over images is: a live bar on a terminal, plain lines elsewhere."""

import threading
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fasticcl.console import print_lines

_LIVE_SECONDS = 0.1  # between two updates of the bar
_QUIET_SECONDS = 30  # without a terminal, between two lines


class Meter:
    """Shows images done, images per second and the time that is left.

    Call it with the images just done and the images in all; from any thread.
    """

    def __init__(self, console: Console, doing: str) -> None:
        self.console, self.doing = console, doing
        self._done, self._began = 0, time.monotonic()
        self._spoke = self._began
        self._lock = threading.Lock()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(doing, total=None, rate="")

    def __enter__(self) -> "Meter":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, images: int, total: int) -> None:
        """Count images that were just done."""
        with self._lock:
            self._done += images
            now = time.monotonic()
            if now - self._spoke < (_LIVE_SECONDS if self.console.is_terminal else _QUIET_SECONDS):
                return
            self._spoke = now
        rate = self._done / (now - self._began)
        if self.console.is_terminal:
            self._bar.update(self._task, completed=self._done, total=total, rate=f"{rate:,.0f} images/s")
            return
        left = timedelta(seconds=round((total - self._done) / rate))
        line = f"{self.doing} {self._done:,}/{total:,} images  {rate:,.0f} images/s  ETA {left}"
        print_lines(self.console, [line])
