"""Plain lines on a rich console."""

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.text import Text

ProgressCallback = Callable[[int, int], None]
"""Called with the number of images that were just processed and the total number of images."""


def print_lines(console: Console, lines: Iterable[str | Text]) -> None:
    """Print lines without wrapping, markup or automatic highlighting."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
