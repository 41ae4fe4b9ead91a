"""Keys by which runs with the same result are recognised, whatever their names and folders are."""

import json
from typing import Any

from fasticcl.config import Config
from fasticcl.config.method_summary import READOUT_PARAMETERS
from fasticcl.config.result_settings import result_settings
from fasticcl.config.unused_settings import check_used
from fasticcl.engine.stages.m2m import seed_config
from fasticcl.errors import UserError
from fasticcl.paper.protocol import USED_IF

_LABELS = ("method.name", "optim.recipe", "method.seed_run")
"""Settings that name other settings or, like the seed run of M2m, replace a stage by its result."""
_READOUTS = {**{name: key for name, (_, key) in READOUT_PARAMETERS.items()}, "ncm": None}
"""The setting of ``rebalance`` that each readout uses. Readouts of users may use any."""


def run_key(config: Config) -> str:
    """Return a key that two configurations share if they describe the same training, including the seed.

    Settings that have no effect with the others are not in the key.
    """
    return run_and_first_stage_keys(config)[0]


def first_stage_key(config: Config) -> str:
    """Return the key of the representation stage alone."""
    return run_and_first_stage_keys(config)[1]


def run_and_first_stage_keys(config: Config) -> tuple[str, str]:
    """Return both keys."""
    values = used_settings(config) | {"engine.seed": config.engine.seed}
    first = {key: value for key, value in values.items() if not key.startswith("rebalance.")}
    return json.dumps(values, sort_keys=True), json.dumps(first, sort_keys=True)


def used_settings(config: Config) -> dict[str, Any]:
    """Return {"section.key": value} of the settings of the key, except the seed."""
    values = result_settings(config)
    return {key: value for key, value in values.items() if key not in _LABELS and is_used(key, config)}


def is_used(key: str, config: Config) -> bool:
    """Return False for a setting that has no effect, for example that of a second stage that is not run."""
    section, _, name = key.partition(".")
    if any(key in settings and not is_used_by(config) for is_used_by, settings in USED_IF.items()):
        return False
    if section == "rebalance":
        if config.rebalance.readout in _READOUTS:
            return name in ("readout", _READOUTS[config.rebalance.readout])
        if not config.rebalance.enabled:
            return False
    try:
        check_used({section: {name: None}}, config)
    except UserError:
        return False
    return True


def seed_run_config(config: Config) -> Config:
    """Return the configuration of the run of cross-entropy whose network a run of M2m can use."""
    config = seed_config(config)
    rebalance = config.rebalance.model_copy(update={"epochs": 0, "readout": "none"})
    return config.model_copy(update={"rebalance": rebalance})
