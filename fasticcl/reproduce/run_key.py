"""Keys by which runs with the same result are recognised, whatever their names and folders are."""

import json
from typing import Any

from fasticcl.config import Config
from fasticcl.config.method_summary import READOUT_PARAMETERS
from fasticcl.config.result_settings import result_settings

_LABELS = ("method.name", "optim.recipe", "method.seed_run")
"""Settings that name other settings or, like the seed run of M2m, replace a stage by its result."""
_READOUTS = {**{name: key for name, (_, key) in READOUT_PARAMETERS.items()}, "ncm": None}
"""The setting of ``rebalance`` that each readout uses. Readouts of users may use any."""
_READOUT_SETTINGS = ("rebalance.tau", "rebalance.alpha")


def run_key(config: Config) -> str:
    """Return a key that two configurations share if they describe the same training, including the seed.

    The key has no settings of a second stage that is not run, and no settings that a readout does not use.
    """
    return json.dumps(used_settings(config) | {"engine.seed": config.engine.seed}, sort_keys=True)


def first_stage_key(config: Config) -> str:
    """Return the key of the representation stage alone."""
    first = {key: value for key, value in used_settings(config).items() if not key.startswith("rebalance.")}
    return json.dumps(first | {"engine.seed": config.engine.seed}, sort_keys=True)


def used_settings(config: Config) -> dict[str, Any]:
    """Return {"section.key": value} of the settings of the key, except the seed."""
    values = result_settings(config)
    return {key: value for key, value in values.items() if key not in _LABELS and _is_used(key, config)}


def _is_used(key: str, config: Config) -> bool:
    """Return False for a setting of a second stage that does not use it."""
    if not key.startswith("rebalance."):
        return True
    readout = config.rebalance.readout
    if readout in _READOUTS:
        return key in ("rebalance.readout", f"rebalance.{_READOUTS[readout]}")
    if readout == "none" and key in _READOUT_SETTINGS:
        return False
    return config.rebalance.enabled
