"""The settings of a run that affect its result."""

from typing import Any

from fasticcl.config.config import Config

_NEUTRAL = ("data.dir", "data.verify_reads", "data.cache")  # settings that do not affect the weights


def result_settings(config: Config) -> dict[str, Any]:
    """Return {"section.key": value} of the settings that affect the result, except the seed."""
    sections = config.model_dump(mode="json", exclude={"engine"})
    values = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    engine = {
        f"engine.{key}": getattr(config.engine, key) for key in ("precision", "sync_bn", "fast_dev_run")
    }
    return {key: value for key, value in (values | engine).items() if key not in _NEUTRAL}
