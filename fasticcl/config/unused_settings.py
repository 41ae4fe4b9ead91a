"""Settings that have no effect with others, such as the γ of the focal loss with another loss."""

from collections.abc import Mapping
from typing import Any

from fasticcl.config.config import Config
from fasticcl.config.method_summary import READOUT_PARAMETERS
from fasticcl.errors import UserError

_M2M = (
    "method.seed_run",
    "method.m2m_beta",
    "method.m2m_lambda",
    "method.m2m_confidence",
    "method.m2m_step_size",
    "method.m2m_steps",
    "method.m2m_noise",
)
_USED_WITH = {
    "method.focal_gamma": ("method.class_loss", ("focal", "sigmoid_focal")),
    "method.ldam_margin": ("method.class_loss", ("ldam",)),
    "method.logit_adjustment_tau": ("method.class_loss", ("logit_adjustment",)),
    "method.classifier_scale": ("method.classifier", ("cosine", "causal")),
    **dict.fromkeys(_M2M, ("method.first_stage", ("m2m",))),
    "method.causal_heads": ("method.classifier", ("causal",)),
    "method.causal_gamma": ("method.classifier", ("causal",)),
    "method.causal_momentum": ("method.classifier", ("causal",)),
    "method.causal_momentum_decay": ("method.classifier", ("causal",)),
    "rebalance.attention": ("rebalance.classifier", ("memory",)),
    "rebalance.centroid_loss_weight": ("rebalance.classifier", ("memory",)),
    **{
        f"rebalance.{key}": (
            "rebalance.readout",
            tuple(name for name, (_, setting) in READOUT_PARAMETERS.items() if setting == key),
        )
        for key in ("tau", "alpha")
    },
}
"""Settings that are used with some values of another setting only."""
_SHIPPED = {
    "method.class_loss": (
        "cross_entropy",
        "balanced_softmax",
        "focal",
        "ldam",
        "logit_adjustment",
        "sigmoid_focal",
    ),
    "method.classifier": ("linear", "cosine", "causal"),
    "method.first_stage": ("iccl", "bbn", "m2m"),
    "rebalance.classifier": ("continue", "reinit", "frozen", "memory"),
    "rebalance.readout": ("none", "tau_norm", "ncm", "log_prior", "tde"),
}
"""Values that are part of fasticcl. Others are added by users and may use any setting."""
_USED_WITHOUT = {
    "method.class_weight_start": ("method.class_weight_beta", 0),
    "method.class_weight_norm": ("method.class_weight_beta", 0),
    "method.mixup_after": ("method.interpolative_weight", 0),
    "data.resample_gamma": ("data.resample_start", 1),
    "data.mixing": ("method.interpolative_weight", 0),
    "data.mixing_probability": ("method.interpolative_weight", 0),
    "data.alpha": ("method.interpolative_weight", 0),
    "data.beta": ("method.interpolative_weight", 0),
    "data.lambda_per": ("method.interpolative_weight", 0),
    "method.cooldown_epochs": ("method.interpolative_weight", 0),
}
"""Settings that are used unless another setting has a value."""
_LAMBDA = ("data.alpha", "data.beta", "data.lambda_per", "data.mixing_probability")
"""Settings of λ, which ``method.first_stage=bbn`` replaces by a weight that depends on the epoch."""
_SECOND_STAGE = (
    "attention",
    "batch_norm",
    "centroid_loss_weight",
    "class_scale",
    "classifier",
    "classifier_lr_factor",
    "smoothing_head",
    "smoothing_tail",
)
"""Settings of ``rebalance`` that only a trained second stage uses."""


def check_used(settings: Mapping[str, Mapping[str, Any]], config: Config) -> None:
    """Check that settings of the user have an effect.

    Settings that belong to the paper's method are not checked, because they have always been accepted.

    Args:
        settings: the settings that the user has written, by section and key.
        config: the resulting configuration.

    Raises:
        UserError: a setting has no effect.
    """
    for section, values in settings.items():
        for key in values:
            path = f"{section}.{key}"
            if path in _LAMBDA and config.method.first_stage == "bbn":
                raise _unused(path, config, "method.first_stage", "choose another --method")
            if path in _USED_WITH:
                other, used = _USED_WITH[path]
                if _value(config, other) in set(_SHIPPED[other]) - set(used):
                    raise _unused(path, config, other, f"set {other} to {' or '.join(used)}")
            elif path in _USED_WITHOUT:
                other, unused = _USED_WITHOUT[path]
                if _value(config, other) == unused:
                    limit = "below 1" if unused == 1 else "above 0"
                    raise _unused(path, config, other, f"set {other} {limit}")
            if section == "rebalance" and key in _SECOND_STAGE:
                _check_second_stage(path, config)


def _check_second_stage(path: str, config: Config) -> None:
    if config.rebalance.readout != "none":
        raise _unused(path, config, "rebalance.readout", "choose another --method")
    if not config.rebalance.epochs:
        raise _unused(path, config, "rebalance.epochs", "set rebalance.epochs=10")


def _value(config: Config, path: str) -> Any:
    section, _, key = path.partition(".")
    return getattr(getattr(config, section), key)


def _unused(path: str, config: Config, other: str, advice: str) -> UserError:
    value = _value(config, other)
    text = f"{value:g}" if isinstance(value, float) else value
    return UserError(f"{path} has no effect, because {other} is {text}. Omit it, or {advice}.")
