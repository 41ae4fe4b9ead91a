"""Shell completion of the names of presets, layouts and settings."""

from collections.abc import Callable, Iterable
from typing import get_args

from typer import Context


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


def _tables() -> list[str]:
    from fasticcl.paper.table import paper_table_names

    return paper_table_names()


def _settings() -> list[str]:
    from fasticcl.config import SECTIONS

    return [f"{name}.{key}=" for name, section in SECTIONS.items() for key in section.model_fields]


datasets, methods, recipes = _starting(_datasets), _starting(_methods), _starting(_recipes)
layouts, settings, tables = _starting(_layouts), _starting(_settings), _starting(_tables)


def rows(ctx: Context, incomplete: str) -> list[str]:
    """Complete the last of several rows of the table on the command line."""
    return _last_name(ctx, incomplete, "rows")


def columns(ctx: Context, incomplete: str) -> list[str]:
    """Complete the last of several columns of the table on the command line."""
    return _last_name(ctx, incomplete, "columns")


def _last_name(ctx: Context, incomplete: str, kind: str) -> list[str]:
    from fasticcl.paper.table import PaperTable

    name = ctx.params.get("table")
    if name not in _tables():
        return []
    before, comma, start = incomplete.rpartition(",")
    names = [part.name for part in getattr(PaperTable.read(name), kind)]
    return [f"{before}{comma}{each}" for each in names if each.startswith(start)]
