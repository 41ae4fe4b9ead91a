"""Layers of the configuration: settings by section and key, from files, options and assignments."""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from fasticcl.config.config import SECTIONS
from fasticcl.errors import UserError, nearest

Layer = Mapping[str, Mapping[str, Any]]
"""Settings by section and key."""


def check_keys(layer: Layer, origin: str = "") -> None:
    """Check that a layer contains only known sections and keys.

    Args:
        layer: the settings.
        origin: file and table of the settings, the start of an error message.

    Raises:
        UserError: an unknown section or key, or a section that is a value.
    """
    start = f"{origin}: " if origin else ""
    for section, values in layer.items():
        if section not in SECTIONS:
            raise UserError(f"{start}There is no section {section!r}. {nearest(section, SECTIONS)}")
        if not isinstance(values, Mapping):
            raise UserError(f"{start}{section} is a section. Set its keys, as in {section}.key = value.")
        known = SECTIONS[section].model_fields
        for key in values:
            if key not in known:
                close = nearest(f"{section}.{key}", [f"{section}.{name}" for name in known])
                raise UserError(f"{start}There is no setting {section}.{key}. {close}")


def merge(layers: Iterable[Layer]) -> dict[str, dict[str, Any]]:
    """Return the union of layers. Later layers override earlier ones.

    Raises:
        UserError: an unknown section or key.
    """
    union: dict[str, dict[str, Any]] = {}
    for layer in layers:
        check_keys(layer)
        for section, values in layer.items():
            union.setdefault(section, {}).update(values)
    return union


def as_layer(settings: Mapping[str, Any] | Iterable[str]) -> Layer:
    """Return settings as a layer.

    Args:
        settings: {"section.key": value}, ["section.key=value"], or a single "section.key=value".

    Raises:
        UserError: a string that is not an assignment, or an unknown section or key.
    """
    if isinstance(settings, Mapping):
        paths = ((path.partition("."), value) for path, value in settings.items())
        return merge({section: {key: value}} for (section, _, key), value in paths)
    return merge(map(assignment, [settings] if isinstance(settings, str) else settings))


def assignment(text: str) -> Layer:
    """Return ``section.key=value`` as a layer. A value that is not valid TOML is treated as a string.

    Raises:
        UserError: the text is not an assignment.
    """
    path, equals, value = text.partition("=")
    section, dot, key = path.strip().partition(".")
    if not (equals and dot and key):
        raise UserError(f"--set expects section.key=value, for example optim.lr=0.1, got {text!r}.")
    try:
        return {section: {key: tomllib.loads(f"value = {value}")["value"]}}
    except tomllib.TOMLDecodeError:
        return {section: {key: value.strip()}}
