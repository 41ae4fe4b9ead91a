"""The settings that a sweep tries: every combination of the values that are given."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fasticcl.config import Config
from fasticcl.engine.rebalance_run import with_settings
from fasticcl.engine.run.folder import RunFolder
from fasticcl.errors import UserError
from fasticcl.resolve import Layer, assignment

Over = Mapping[str, Any] | Iterable[str]
"""Values by setting, or ``["rebalance.key=value,value"]``; one alone need not be in a list."""


@dataclass(frozen=True)
class Setting:
    """One combination."""

    values: dict[str, Any]
    """By ``rebalance.key``, of the keys that are swept."""
    config: Config
    """The run's configuration with these values."""
    own: bool
    """Whether the whole stage is the run's own, also in what is not swept."""


def grid(run: RunFolder, over: Over, settings: Layer) -> list[Setting]:
    """Return every combination once, the last key changing fastest.

    Args:
        run: the run whose rebalancing stage is swept.
        over: keys of ``rebalance`` and their values.
        settings: what else is changed, for all combinations alike.

    Raises:
        UserError: a key of another section, an unknown one, or a value out of its range.
    """
    axes = _axes(over)
    found: dict[tuple[Any, ...], Setting] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        rebalance = {**settings.get("rebalance", {}), **{key: chosen[key] for key in axes}}
        config = with_settings(run, {**settings, "rebalance": rebalance})
        resolved = {f"rebalance.{key}": getattr(config.rebalance, key) for key in axes}
        own = config.rebalance == run.config.rebalance
        found[tuple(resolved.values())] = Setting(resolved, config, own)
    return [*found.values()]


def _axes(over: Over) -> dict[str, list[Any]]:
    """Return the values of each key of rebalance, without its section."""
    pairs = over.items() if isinstance(over, Mapping) else map(_split, map(str, _listed(over)))
    axes: dict[str, list[Any]] = {}
    for path, values in pairs:
        section, _, key = str(path).partition(".")
        if section != "rebalance" or not key:
            raise UserError(
                f"--over takes settings of the rebalancing stage, rebalance.KEY=VALUE,VALUE, got {path!r}."
            )
        if key in axes:
            raise UserError(f"--over {path} is given twice; put all of its values into one, with commas.")
        axes[key] = _listed(values)
    if not axes or not all(axes.values()):
        raise UserError(
            "Say what is swept, for example: --over rebalance.distillation_temperature=1,2,5,10,20"
        )
    return axes


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else [*value]


def _split(text: str) -> tuple[str, list[Any]]:
    path, _, values = text.partition("=")
    words = [word for word in values.split(",") if word.strip()]
    path = path.strip()
    key = path.partition(".")[2]
    return path, [assignment(f"rebalance.{key}={word}")["rebalance"][key] for word in words] if key else []
