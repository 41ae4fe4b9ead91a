"""Lazy registry: objects by name, imported on first access."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from user-visible names to objects in the modules of a package.

    Args:
        package: name of the package.
        attributes: ``module.attribute`` in the package for each name.
    """

    def __init__(self, package: str, attributes: Mapping[str, str]) -> None:
        self._package, self._attributes = package, attributes

    def __getitem__(self, name: str) -> T:
        module, _, attribute = self._attributes[name].partition(".")
        return cast(T, getattr(import_module(f"{self._package}.{module}"), attribute))

    def __iter__(self) -> Iterator[str]:
        return iter(self._attributes)

    def __len__(self) -> int:
        return len(self._attributes)

    def __contains__(self, name: object) -> bool:
        return name in self._attributes
