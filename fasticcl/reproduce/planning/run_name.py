"""Names of runs that are derived from their settings."""

import hashlib
import json
import re
from functools import lru_cache
from typing import Any

from fasticcl.config import Config, Recipe
from fasticcl.reproduce.planning.requested_settings import with_warmup_of
from fasticcl.reproduce.run_key import used_settings
from fasticcl.resolve import named_presets, resolve, with_settings

_MAX_READABLE = 2  # settings in a name. More of them are replaced by a hash.
_MAX_LENGTH = 100
_SECOND_EPOCHS, _PRECISION = "rebalance.epochs", "engine.precision"
_PREFIXES = {"rebalance": "rebalance-", "optim": "optim-"}
"""Prefixes of keys that are also in another section."""


def run_name(config: Config) -> str:
    """Return the name of a run: method, ratio, the settings that differ from the presets, and seed.

    Examples are ``crt-r100-s0`` and ``iccl-r100-60+3ep-resnet8-rebalance-gamma0.5-s1``, in which the second
    stage has 3 epochs. Runs on one dataset with different training have different names.
    """
    base = _presets(config.data.dataset, config.method.name, config.optim.recipe, config.data.imbalance)
    words = [config.method.name]
    if config.optim.recipe != "preset":
        words.append(config.optim.recipe)
    if config.data.imbalance:
        words.append(f"r{config.data.imbalance}")
    changes = _changes(config, base)
    second = f"+{changes.pop(_SECOND_EPOCHS)}" if _SECOND_EPOCHS in changes else ""
    if second or config.optim.epochs != base.optim.epochs:
        words.append(f"{config.optim.epochs}{second}ep")
    if config.method.encoder != base.method.encoder:
        words.append(_plain(config.method.encoder))
    if _PRECISION in changes:
        words.append(changes.pop(_PRECISION))
    seed = f"s{config.engine.seed}"
    readable = "-".join([*words, *(_words(key, value) for key, value in changes.items()), seed])
    if len(changes) > _MAX_READABLE or len(readable) > _MAX_LENGTH:
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:8]
        return "-".join([*words, digest, seed])
    return readable


@lru_cache
def _presets(dataset: str, method: str, recipe: Recipe, imbalance: int | None) -> Config:
    """Return the configuration of the presets that the method and the dataset of a run name."""
    options = {"data": {"imbalance": imbalance}} if imbalance else {}
    return named_presets(dataset, method, recipe, options) or resolve(dataset, options=options)


def _changes(config: Config, base: Config) -> dict[str, Any]:
    """Return the settings that differ from the presets, apart from epochs, encoder and their consequences."""
    options = {"optim": {"epochs": config.optim.epochs}, "method": {"encoder": config.method.encoder}}
    expected = used_settings(with_warmup_of(base, with_settings(base, options)))
    actual = used_settings(config)
    return {key: value for key, value in actual.items() if key not in expected or expected[key] != value}


def _words(key: str, value: Any) -> str:
    section, _, name = key.partition(".")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    text = f"{value:.10g}" if is_number else f"-{_plain(json.dumps(value))}"
    return f"{_PREFIXES.get(section, '')}{name}{text}"


def _plain(text: str) -> str:
    """Return a text without characters that a file name or a shell would treat specially."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")
