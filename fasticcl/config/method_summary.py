"""The parts of a method in words, for the first lines of a run, its report and its model card."""

from collections.abc import Iterator

from fasticcl.config.config import Config
from fasticcl.config.rebalance import Rebalance

_LOSS_PARAMETERS = {
    "focal": ("γ", "focal_gamma"),
    "ldam": ("margin", "ldam_margin"),
    "logit_adjustment": ("τ", "logit_adjustment_tau"),
    "sigmoid_focal": ("γ", "focal_gamma"),
}
"""Symbol and setting of the parameter of a class loss."""
READOUT_PARAMETERS = {"tau_norm": ("τ", "tau"), "log_prior": ("τ", "tau"), "tde": ("α", "alpha")}
"""Symbol and setting of the parameter of a readout."""
_DIVISORS = {"weights": "the sum of the weights", "batch": "the batch size"}


def method_summary(config: Config) -> list[str]:
    """Return the losses, classifiers, samplers and second stages of a run that are not part of ICCL.

    They are short phrases. There are none for ICCL, cross-entropy and mixup, which consist of parts of ICCL.
    Epochs count from 1, as in all records.

    Args:
        config: the configuration, shortened if the run uses ``fast_dev_run``.
    """
    return [
        *_mixing(config),
        *_classification(config),
        *_class_weights(config),
        *_sampling(config),
        *_translation(config),
        *_second_stage(config.rebalance),
        *(["published schedule"] if config.optim.recipe == "published" else []),
    ]


def readout_name(rebalance: Rebalance) -> str:
    """Return the readout with its parameter, for example ``tau_norm (τ = 0.7)``."""
    symbol, setting = READOUT_PARAMETERS.get(rebalance.readout, ("", ""))
    return rebalance.readout + (f" ({symbol} = {getattr(rebalance, setting):g})" if setting else "")


def _mixing(config: Config) -> Iterator[str]:
    data, blocks = config.data, config.method.mixup_after
    if blocks:
        name = "manifold mixup after " + " or ".join(filter(None, [", ".join(blocks[:-1]), blocks[-1]]))
    elif data.mixing == "cutmix":
        name = "CutMix of both streams"
    elif data.mixing == "mixup" and data.mixing_probability < 1:
        name = "mixup of both streams"
    else:
        return
    probability = f" (probability {data.mixing_probability:g})" if data.mixing_probability < 1 else ""
    phases = [config.phase(epoch) for epoch in range(config.optim.epochs)]
    yield name + probability + ("" if "interpolative" in phases else " in no epoch")


def _classification(config: Config) -> Iterator[str]:
    method = config.method
    if method.first_stage == "bbn":
        yield "encoder with two tails"
    if method.class_loss != "cross_entropy":
        symbol, setting = _LOSS_PARAMETERS.get(method.class_loss, ("", ""))
        parameter = f" ({symbol} = {getattr(method, setting):g})" if setting else ""
        yield f"loss {method.class_loss}{parameter}"
    if method.classifier != "linear":
        heads = f"{method.causal_heads} head{'s' * (method.causal_heads > 1)}, "
        scale = f" ({heads * (method.classifier == 'causal')}scale {method.classifier_scale:g})"
        yield f"classifier {method.classifier}{scale * (method.classifier in ('cosine', 'causal'))}"


def _class_weights(config: Config) -> Iterator[str]:
    method = config.method
    if not method.class_weight_beta:
        return
    weights = f"class weights (β = {method.class_weight_beta:g})"
    if config.class_weight_epoch is None:
        yield f"{weights} in no epoch, because class_weight_start is {method.class_weight_start:g}"
    else:
        yield (
            f"{weights} from epoch {config.class_weight_epoch + 1}, "
            f"loss divided by {_DIVISORS[method.class_weight_norm]}"
        )


def _sampling(config: Config) -> Iterator[str]:
    data = config.data
    if config.resample_epoch is not None:
        yield f"re-sampling (γ = {data.resample_gamma:g}) from epoch {config.resample_epoch + 1}"
    elif data.resample_start < 1:
        yield (
            f"re-sampling (γ = {data.resample_gamma:g}) in no epoch, because resample_start is "
            f"{data.resample_start:g}"
        )


def _translation(config: Config) -> Iterator[str]:
    method = config.method
    if method.first_stage != "m2m" or config.resample_epoch is None:
        return
    steps = f"{method.m2m_steps} step{'s' * (method.m2m_steps > 1)} of {method.m2m_step_size:g}"
    yield (
        f"translation ({steps}, β = {method.m2m_beta:g}, γ = {method.m2m_confidence:g}, "
        f"λ = {method.m2m_lambda:g}, noise {method.m2m_noise:g}) from epoch {config.resample_epoch + 1}"
    )
    if method.seed_run is None:
        yield "seed network trained first with cross-entropy"
    else:
        yield f"seed network of the run {method.seed_run.name}"


def _second_stage(rebalance: Rebalance) -> Iterator[str]:
    if rebalance.readout != "none":
        yield f"readout {readout_name(rebalance)}"
        return
    if not rebalance.epochs:
        return
    rate = rebalance.classifier_lr_factor
    suffix = f" (learning rate × {rate:g})" if rate != 1 else ""
    classifiers = {
        "continue": f"the classifier{suffix}",
        "reinit": f"a new classifier{suffix}",
        "frozen": "",
        "memory": f"a classifier with a memory of class centroids{suffix}",
    }
    parts = [
        "the encoder" if rebalance.encoder == "tuned" else "",
        classifiers[rebalance.classifier],
        "the class scales" if rebalance.class_scale else "",
    ]
    if rebalance.classifier != "continue" or rebalance.class_scale or rate != 1:
        yield f"second stage trains {' and '.join(filter(None, parts))}"
    if rebalance.attention:
        yield "second stage with modulated attention"
    if rebalance.batch_norm == "train":
        yield "second stage with batch norm in train mode"
    if rebalance.smoothing_head or rebalance.smoothing_tail:
        head, tail = rebalance.smoothing_head, rebalance.smoothing_tail
        yield f"second stage with label smoothing from {head:g} (largest class) to {tail:g} (smallest class)"
