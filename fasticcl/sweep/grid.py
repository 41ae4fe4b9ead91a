"""The grid of a sweep: all combinations of the values to try."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fasticcl.config import Config
from fasticcl.config.layers import Layer, assignment
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.rerun_settings import with_settings
from fasticcl.errors import UserError

Over = Mapping[str, Any] | Iterable[str]
"""Values by setting, or ``["rebalance.key=value,value"]``. A single value may be given without a list."""


@dataclass(frozen=True)
class GridPoint:
    """One combination of values."""

    values: dict[str, Any]
    """Values of the swept settings, by ``rebalance.key``."""
    config: Config
    """The run's configuration with these values."""
    same_as_run: bool
    """True if the run itself was rebalanced with the same settings, including those that are not swept."""


def build_grid(run: RunFolder, over: Over, settings: Layer, method: str | None = None) -> list[GridPoint]:
    """Return all combinations without duplicates. The last setting changes fastest.

    Args:
        run: the run whose rebalancing stage is swept.
        over: settings of ``rebalance`` and their values.
        settings: other changes, common to all combinations.
        method: method preset whose second stage replaces that of the run.

    Raises:
        UserError: a setting is unknown, not used or of another section, or a value is out of range.
    """
    axes = _axes(over)
    points: dict[tuple[Any, ...], GridPoint] = {}
    for combination in itertools.product(*axes.values()):
        rebalance = {**settings.get("rebalance", {}), **dict(zip(axes, combination, strict=True))}
        config = with_settings(run, {**settings, "rebalance": rebalance}, method)
        values = {f"rebalance.{key}": getattr(config.rebalance, key) for key in axes}
        same_as_run = config.rebalance == run.config.rebalance
        points[tuple(values.values())] = GridPoint(values, config, same_as_run)
    return [*points.values()]


def _axes(over: Over) -> dict[str, list[Any]]:
    """Return the values of each swept setting, by its key in ``rebalance``."""
    pairs = over.items() if isinstance(over, Mapping) else map(_split, map(str, _as_list(over)))
    axes: dict[str, list[Any]] = {}
    for path, values in pairs:
        section, _, key = str(path).partition(".")
        if section != "rebalance" or not key:
            raise UserError(
                "--over requires settings of the rebalancing stage, as rebalance.KEY=VALUE,VALUE, "
                f"but got {path!r}."
            )
        if key in axes:
            raise UserError(
                f"--over {path} is given twice. Give all its values at once, separated by commas."
            )
        axes[key] = _as_list(values)
    if not axes or not all(axes.values()):
        raise UserError(
            "Give the values to try, for example: --over rebalance.gamma=0,0.5,1, or, with "
            "--method tau-norm, --over rebalance.tau=0,0.5,1"
        )
    return axes


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else [*value]


def _split(text: str) -> tuple[str, list[Any]]:
    path, _, values = text.partition("=")
    words = [word for word in values.split(",") if word.strip()]
    path = path.strip()
    key = path.partition(".")[2]
    return path, [assignment(f"rebalance.{key}={word}")["rebalance"][key] for word in words] if key else []
