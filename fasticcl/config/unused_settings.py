"""Settings of losses, classifiers, samplers and second stages that a run does not use."""

from fasticcl.config.config import Config
from fasticcl.config.method_summary import LOSS_PARAMETERS, READOUTS_WITH_TAU
from fasticcl.config.rebalance import Rebalance

_LOSSES = {*LOSS_PARAMETERS, "cross_entropy", "balanced_softmax"}
"""Losses whose settings are known. A loss that was added may use any of them."""


def why_unused(config: Config, path: str) -> str | None:
    """Return why a setting has no effect on a run, or None if it has an effect.

    Args:
        config: the configuration of the run.
        path: the setting, as section.key.
    """
    section, _, key = path.partition(".")
    method = config.method
    if section == "rebalance":
        return _why_unused_in_second_stage(config.rebalance, key)
    users = [name for name, (_, setting) in LOSS_PARAMETERS.items() if f"method.{setting}" == path]
    if users and method.class_loss in _LOSSES - {*users}:
        return f"only the loss {' or '.join(users)} uses it"
    if path == "method.classifier_scale" and method.classifier == "linear":
        return "a linear classifier has no scale"
    if path in ("method.class_weight_start", "method.class_weight_norm") and not method.class_weight_beta:
        return "method.class_weight_beta is 0, so there are no class weights"
    if path == "data.resample_gamma" and config.data.resample_start == 1:
        return "data.resample_start is 1, so there is no re-sampling"
    return None


def _why_unused_in_second_stage(rebalance: Rebalance, key: str) -> str | None:
    if key == "tau" and rebalance.readout in ("none", "ncm"):
        return f"only the readout {' or '.join(READOUTS_WITH_TAU)} uses it"
    if key in ("tau", "readout", "epochs"):
        return None
    if rebalance.readout != "none":
        return f"the readout {rebalance.readout} does not use it"
    return None if rebalance.epochs else "rebalance.epochs is 0, so there is no second stage"
