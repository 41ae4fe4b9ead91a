"""Plain lines on a rich console."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text


def print_lines(console: Console, lines: Iterable[str | Text]) -> None:
    """Print lines without wrapping, markup or automatic highlighting."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
