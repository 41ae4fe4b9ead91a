"""Plain lines and progress on a rich console."""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

ProgressCallback = Callable[[int, int], None]
"""Called with the number of images just finished and the total number."""
_LIVE_SECONDS = 0.1  # between updates of the bar
_LINE_SECONDS = 30  # between lines, without a terminal


def print_lines(console: Console, lines: Iterable[str | Text]) -> None:
    """Print lines without wrapping, markup or automatic highlighting."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


class ImageProgress:
    """Progress of a long job over images: a live bar on a terminal, otherwise plain lines.

    Call it from any thread with the number of images just finished and the total number.

    Args:
        console: console to print on.
        job: name of the job, such as "converting".
    """

    def __init__(self, console: Console, job: str) -> None:
        self.console, self.job = console, job
        self._done, self._began = 0, time.monotonic()
        self._shown = self._began
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
        self._task = self._bar.add_task(job, total=None, rate="")

    def __enter__(self) -> "ImageProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, images: int, total: int) -> None:
        """Count finished images and update the display."""
        with self._lock:
            self._done += images
            now = time.monotonic()
            if now - self._shown < (_LIVE_SECONDS if self.console.is_terminal else _LINE_SECONDS):
                return
            self._shown = now
        rate = self._done / (now - self._began)
        if self.console.is_terminal:
            self._bar.update(self._task, completed=self._done, total=total, rate=f"{rate:,.0f} images/s")
            return
        left = timedelta(seconds=round((total - self._done) / rate))
        line = f"{self.job} {self._done:,}/{total:,} images  {rate:,.0f} images/s  ETA {left}"
        print_lines(self.console, [line])
