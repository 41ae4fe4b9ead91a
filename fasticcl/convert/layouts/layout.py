"""The description of a dataset layout that `fasticcl convert` and `fasticcl datasets` use."""

from collections.abc import Callable
from dataclasses import dataclass

from fasticcl.convert.source import Source

OWN_IMAGE_OPTIONS = frozenset({"val_fraction", "long_tail"})
"""Options of the layouts for the user's own images."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A dataset layout, as a module of this folder provides it to the registry."""

    read: Callable[..., Source]
    """Function of SRC and of the given ``options``, which are passed by name."""
    description: str
    example: str
    """A complete command that converts the dataset."""
    download: str = ""
    """Files to download and their address. Empty for the user's own images."""
    licence: str = "yours"
    options: frozenset[str] = frozenset()
    """Options of `fasticcl convert` that apply to this layout in addition to the common ones."""
