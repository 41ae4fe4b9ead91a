"""Settings that a run does not use."""

import pytest

from fasticcl.config.unused_settings import why_unused
from fasticcl.errors import UserError
from fasticcl.resolve import configure, resolve


@pytest.mark.parametrize(
    ("method", "assignment", "reason"),
    [
        ("ce", "method.focal_gamma=2", "only the loss focal or sigmoid_focal uses it"),
        ("focal", "method.ldam_margin=0.3", "only the loss ldam uses it"),
        ("balanced-softmax", "method.logit_adjustment_tau=2", "only the loss logit_adjustment uses it"),
        ("ce", "method.classifier_scale=16", "a linear classifier has no scale"),
        ("ce", "method.class_weight_start=0.5", r"method\.class_weight_beta is 0"),
        ("ce", "method.class_weight_norm=batch", r"method\.class_weight_beta is 0"),
        ("ce", "data.resample_gamma=1", r"data\.resample_start is 1"),
        ("ncm", "rebalance.tau=0.5", "only the readout tau_norm or log_prior uses it"),
        ("crt", "rebalance.tau=0.5", "only the readout tau_norm or log_prior uses it"),
        ("tau-norm", "rebalance.gamma=0", "the readout tau_norm does not use it"),
        ("ce", "rebalance.lr_factor=1", r"rebalance\.epochs is 0, so there is no second stage"),
    ],
)
def test_a_setting_without_effect_is_refused_with_the_reason(method, assignment, reason):
    path = assignment.partition("=")[0].replace(".", r"\.")
    with pytest.raises(UserError, match=f"^{path} has no effect, because {reason}"):
        configure("cifar100-lt", method=method, set=[assignment])
    key, _, value = assignment.partition("=")
    with pytest.raises(UserError, match="has no effect"):
        configure("cifar100-lt", method=method, set={key: value})


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("focal-sigmoid", {"method.focal_gamma": 2}),
        ("ldam-drw", {"method.ldam_margin": 0.3, "method.classifier_scale": 16}),
        ("ce", {"method.class_weight_beta": 0.9, "method.class_weight_start": 0.5}),
        ("ce-drs", {"data.resample_gamma": 1}),
        ("tau-norm", {"rebalance.tau": 0.5, "rebalance.epochs": 2}),
        ("ce", {"rebalance.epochs": 1, "rebalance.gamma": 0}),
        ("ce-drw", {"method.class_weight_beta": 0}),  # the start is from the preset
    ],
)
def test_settings_with_effect_are_accepted(method, settings):
    assert configure("cifar100-lt", method=method, set=settings).method.name == method


def test_a_loss_that_was_added_may_use_any_setting_of_a_loss():
    config = resolve("demo", assignments=["method.class_loss=poly1"])
    assert why_unused(config, "method.focal_gamma") is None
