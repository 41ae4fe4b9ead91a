"""Differences between the settings of a run and those of a figure of the paper."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fasticcl.config import Config, Rebalance

_PHRASES = {
    "data.dataset": "dataset {} (paper: {})",
    "data.subset": "another choice of images",
    "data.imbalance": "imbalance ratio {} (paper: {})",
    "engine.fast_dev_run": "a few steps of each phase (--fast-dev-run)",
    "optim.epochs": "{} {epochs} (paper: {})",
    "method.encoder": "encoder {} (paper: {})",
    "optim.batch_size": "batch size {} (paper: {})",
    "optim.lr": "learning rate {} (paper: {})",
    "optim.milestones": "learning-rate decays at {} of the epochs (paper: {})",
    "optim.warmup_epochs": "learning-rate warm-up of {} {epochs} (paper: {})",
    "method.warmup_epochs": "T = {} (paper: {})",
    "rebalance": "second stage: {} (paper: {})",
}
"""Phrases with the value of the run and of the paper, in the order of the result. Other settings follow with
their names."""
_OTHER_DATASET = ("data.dataset", "optim.epochs", "method.encoder")
"""Settings that are compared if the dataset is another one, on which most of the other settings depend."""
_NEUTRAL = (
    "data.dir",
    "data.verify_reads",
    "data.cache",
    "data.max_bad_samples",
    "data.hw_decoder_load",
    "data.decode_regions",
    "method.name",
    "method.seed_run",  # replaces a stage by its result
    "optim.recipe",  # its settings are compared
    "rebalance.epochs",  # part of "rebalance"
    "rebalance.readout",  # the same
)
"""Settings that are names or do not change the training."""
_NOT_STATED = (
    "data.lambda_per",
    "method.bn_mode",
    "optim.nesterov",
    "rebalance.batch_norm",
    "rebalance.tau",
    "rebalance.weight_decay",
)
"""Settings that the paper does not state. The expected value is that of the presets."""
_FRACTIONS = ("method.warmup_epochs", "method.cooldown_epochs")
"""Numbers of epochs of which the fraction of all epochs counts."""
_INTERPOLATIVE = (
    "data.gamma",
    "data.alpha",
    "data.beta",
    "data.lambda_per",
    "data.mixing",
    "data.mixing_probability",
    "method.bn_mode",
    "method.uniform_weight",
    "method.interpolative_cross_entropy",
    *_FRACTIONS,
)
_CENTROIDS = (
    "method.embedding_dim",
    "method.temperature",
    "method.centroid_momentum",
    "method.centroid_norm",
)
USED_IF: Mapping[Callable[[Config], bool], tuple[str, ...]] = {
    lambda config: config.method.interpolative_weight > 0: _INTERPOLATIVE,
    lambda config: config.method.centroid_contrastive: _CENTROIDS,
    lambda config: config.optim.schedule == "step": ("optim.milestones", "optim.decay"),
    lambda config: config.rebalance.distillation_weight > 0: ("rebalance.distillation_temperature",),
}
"""Settings that affect only the trainings that use them."""


def protocol_differences(config: Config, published: Config, subset: str | None = None) -> list[str]:
    """Return short phrases that say how the training of a run differs from that behind a figure of the paper.

    The images come first, then the number of epochs, the encoder and the other settings. Seed, hardware and
    numeric precision are not compared, because the paper does not state them.

    Args:
        config: the run.
        published: the training behind the figure, see `PaperTable.config`.
        subset: the choice of training images in words, or None or an empty string for all images or the
            published choice.
    """
    values, paper = (
        _settings(config) | {"data.subset": subset or ""},
        _settings(published) | {"data.subset": ""},
    )
    different = [path for path in values if not _is_same(path, values, paper)]
    if "data.dataset" in different:
        different = [path for path in different if path in _OTHER_DATASET]
    unused = {*_unused(config, published)}
    ordered = [*_PHRASES, *(path for path in values if path not in _PHRASES)]
    return [
        _phrase(path, values[path], paper[path])
        for path in ordered
        if path in different and path not in unused
    ]


def _settings(config: Config) -> dict[str, Any]:
    """Return {"section.key": value}, with the second stage in words as ``rebalance``."""
    sections = config.model_dump(mode="json", exclude={"engine"})
    values = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    values["engine.fast_dev_run"] = config.engine.fast_dev_run
    values["rebalance"] = _second_stage(config.rebalance)
    if values["data.eval_split"] == "test":  # that of the paper
        values["data.eval_split"] = "auto"
    return {path: value for path, value in values.items() if path not in _NEUTRAL}


def _second_stage(rebalance: Rebalance) -> str:
    if rebalance.readout != "none":
        return rebalance.readout
    count = rebalance.epochs
    return f"{count} {_epochs(count)}" if count else "none"


def _is_same(path: str, values: Mapping[str, Any], paper: Mapping[str, Any]) -> bool:
    value, expected = values[path], paper[path]
    scaled = path in _FRACTIONS or (path == "optim.warmup_epochs" and value != expected)
    if scaled:
        return abs(value - expected * values["optim.epochs"] / paper["optim.epochs"]) < 1
    return value == expected


def _unused(config: Config, published: Config) -> Iterator[str]:
    """Yield the settings that do not count."""
    for is_used, paths in USED_IF.items():
        if not (is_used(config) or is_used(published)):
            yield from paths
    if not (config.rebalance.trained_epochs and published.rebalance.trained_epochs):
        keys = {*Rebalance.model_fields}
        if config.rebalance.readout == published.rebalance.readout != "none":
            keys -= {"tau", "alpha"}
        yield from (f"rebalance.{key}" for key in keys)


def _phrase(path: str, value: object, paper: object) -> str:
    source = "expected" if path in _NOT_STATED else "paper"
    pattern = _PHRASES.get(path, f"{path} {{}} ({source}: {{}})")
    return pattern.format(_text(value), _text(paper), epochs=_epochs(value))


def _epochs(count: object) -> str:
    return "epoch" if count == 1 else "epochs"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
