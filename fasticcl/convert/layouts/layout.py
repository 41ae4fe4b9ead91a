"""How one kind of dataset lies on the disk, and where a person gets it."""

from collections.abc import Callable
from dataclasses import dataclass

from fasticcl.convert.source import Source

OWN_IMAGES = frozenset({"val_fraction", "long_tail"})
"""Options of layouts that hold anybody's images."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a file of this folder registers in `layouts`."""

    read: Callable[..., Source]
    """Called with SRC and those of ``options`` that were given, by name."""
    what: str
    command: str
    """The exact next command."""
    where: str = ""
    """Where a person gets it; empty: it is theirs."""
    licence: str = "yours"
    options: frozenset[str] = frozenset()
    """Which of the options of `fasticcl convert` it takes."""
