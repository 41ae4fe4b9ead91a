"""The description of a dataset layout that `fasticcl convert` and `fasticcl datasets` use."""

from collections.abc import Callable
from dataclasses import dataclass

from fasticcl.convert.source import Source
from fasticcl.shards.published_subset import FILE_NAMES_SEED0

OWN_IMAGE_OPTIONS = frozenset({"val_fraction", "long_tail"})
"""Options of the layouts for the user's own images."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A dataset layout, defined in a module of this folder and listed in the registry."""

    read: Callable[..., Source]
    """Function that reads SRC. The ``options`` that the user has set are passed as keyword arguments."""
    description: str
    example: str
    """A complete command that converts the dataset."""
    download: str = ""
    """Files to download and their addresses. Empty for the user's own images."""
    licence: str = "yours"
    options: frozenset[str] = frozenset()
    """Options of `fasticcl convert` that apply to this layout in addition to the common ones."""
    subset: str = FILE_NAMES_SEED0
    """Name of the choice of images that ``long_tail`` makes."""
