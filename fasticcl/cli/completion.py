"""Shell completion of the names of presets, layouts and settings."""

from collections.abc import Callable, Iterable
from typing import get_args


def _starting(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a completion function that looks up the names when it is called."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _datasets() -> list[str]:
    from fasticcl.preset_files import preset_names

    return preset_names()


def _methods() -> list[str]:
    from fasticcl.preset_files import preset_names

    return preset_names("method")


def _recipes() -> list[str]:
    from fasticcl.config import Recipe

    return [*get_args(Recipe)]


def _layouts() -> list[str]:
    from fasticcl.convert.layouts.registry import LAYOUTS

    return [*LAYOUTS]


def _settings() -> list[str]:
    from fasticcl.config import SECTIONS

    return [f"{name}.{key}=" for name, section in SECTIONS.items() for key in section.model_fields]


datasets, methods, recipes = _starting(_datasets), _starting(_methods), _starting(_recipes)
layouts, settings = _starting(_layouts), _starting(_settings)
