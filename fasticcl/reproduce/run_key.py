"""Keys by which runs with the same result are recognised, whatever their names and folders are."""

import json
from typing import Any

from fasticcl.config import Config
from fasticcl.config.result_settings import result_settings

_LABELS = ("method.name", "optim.recipe", "method.seed_run")
"""Settings that name other settings or, like the seed run of M2m, replace a stage by its result."""


def run_key(config: Config) -> str:
    """Return a key that two configurations share if they describe the same training, including the seed.

    A second stage that is not run does not count.
    """
    values = _training_settings(config)
    if not config.rebalance.enabled:
        values = _without_second_stage(values)
    return json.dumps(values, sort_keys=True)


def first_stage_key(config: Config) -> str:
    """Return the key of the representation stage alone."""
    return json.dumps(_without_second_stage(_training_settings(config)), sort_keys=True)


def _training_settings(config: Config) -> dict[str, Any]:
    values = result_settings(config) | {"engine.seed": config.engine.seed}
    return {key: value for key, value in values.items() if key not in _LABELS}


def _without_second_stage(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith("rebalance.")}
