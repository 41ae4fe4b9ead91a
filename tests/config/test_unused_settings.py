"""Settings without effect are errors, if the user has written them."""

import pytest

import fasticcl
from fasticcl.config.unused_settings import _SHIPPED
from fasticcl.errors import UserError
from fasticcl.method.class_losses import CLASS_LOSSES
from fasticcl.method.classifiers import CLASSIFIERS
from fasticcl.method.readouts import READOUTS
from fasticcl.preset_files import preset_names


@pytest.mark.parametrize(
    ("method", "assignments", "sentence"),
    [
        (
            "ce",
            ["method.focal_gamma=2"],
            "method.focal_gamma has no effect, because method.class_loss is cross_entropy. Omit it, or set "
            "method.class_loss to focal or sigmoid_focal.",
        ),
        (
            "ce-drw",
            ["method.class_weight_beta=0", "method.class_weight_start=0.5"],
            "method.class_weight_start has no effect, because method.class_weight_beta is 0. Omit it, or set "
            "method.class_weight_beta above 0.",
        ),
        (
            "ce",
            ["rebalance.class_scale=true"],
            "rebalance.class_scale has no effect, because rebalance.epochs is 0. Omit it, or set "
            "rebalance.epochs=10.",
        ),
        (
            "ncm",
            ["rebalance.classifier=reinit"],
            "rebalance.classifier has no effect, because rebalance.readout is ncm. Omit it, or choose "
            "another --method.",
        ),
        (
            "crt",
            ["rebalance.centroid_loss_weight=1"],
            "rebalance.centroid_loss_weight has no effect, because rebalance.classifier is reinit. Omit it, "
            "or set rebalance.classifier to memory.",
        ),
        ("crt", ["rebalance.attention=false"], "because rebalance.classifier is reinit. "),
        (
            "oltr",
            ["rebalance.readout=ncm", "rebalance.centroid_loss_weight=1"],
            "because rebalance.readout is ncm. ",
        ),
        ("ncm", ["rebalance.tau=1"], "rebalance.tau has no effect, because rebalance.readout is ncm. "),
        (
            "ce-drs",
            ["method.m2m_steps=3"],
            "method.m2m_steps has no effect, because method.first_stage is iccl. Omit it, or set "
            "method.first_stage to m2m.",
        ),
        ("ce", ["method.seed_run=runs/demo/ce-1"], "method.seed_run has no effect, because method.first_"),
        ("ce", ["method.ldam_margin=1"], "method.ldam_margin has no effect, "),
        ("ldam-drw", ["method.logit_adjustment_tau=1"], "because method.class_loss is ldam. "),
        ("crt", ["method.classifier_scale=9"], "because method.classifier is linear. "),
        (
            "ldam-drw",
            ["method.causal_gamma=1"],
            "method.causal_gamma has no effect, because method.classifier is cosine. Omit it, or set "
            "method.classifier to causal.",
        ),
        ("ce", ["method.causal_heads=1"], "because method.classifier is linear. "),
        ("ce", ["method.causal_momentum=0"], "because method.classifier is linear. "),
        ("ce", ["method.causal_momentum_decay=true"], "because method.classifier is linear. "),
        (
            "ncm",
            ["rebalance.alpha=1"],
            "rebalance.alpha has no effect, because rebalance.readout is ncm. Omit it, or set "
            "rebalance.readout to tde.",
        ),
        ("tde", ["rebalance.tau=1"], "rebalance.tau has no effect, because rebalance.readout is tde. "),
        ("cb-focal", ["data.resample_gamma=1"], "because data.resample_start is 1. "),
        *(
            (
                "ce",
                [f"{path}={value}"],
                f"{path} has no effect, because method.interpolative_weight is 0. Omit it, or set "
                "method.interpolative_weight above 0.",
            )
            for path, value in (
                ("data.mixing", "cutmix"),
                ("data.mixing_probability", 0.5),
                ("data.alpha", 2),
                ("data.beta", 2),
                ("data.lambda_per", "sample"),
                ("method.cooldown_epochs", 1),
            )
        ),
        (
            "ce",
            ["method.mixup_after=stage1", "data.mixing=none"],
            "method.mixup_after has no effect, because method.interpolative_weight is 0. Omit it, or set "
            "method.interpolative_weight above 0.",
        ),
    ],
)
def test_a_setting_without_effect_is_an_error_with_its_reason(method, assignments, sentence):
    with pytest.raises(UserError) as error:
        fasticcl.configure("demo", method=method, set=assignments)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("method", "assignments"),
    [
        ("ce", ["method.class_loss=focal", "method.focal_gamma=2"]),
        ("ce", ["method.class_weight_beta=0.9", "method.class_weight_start=0.5"]),
        ("ce", ["rebalance.epochs=1", "rebalance.class_scale=true"]),
        ("tau-norm", ["rebalance.tau=0"]),
        ("tde", ["rebalance.alpha=0", "method.causal_heads=4", "method.classifier_scale=9"]),
        ("ce", ["method.classifier=causal", "method.causal_momentum=0.5"]),
        ("m2m", ["method.seed_run=runs/demo/ce-1", "method.m2m_beta=0.99"]),
        ("oltr", ["rebalance.centroid_loss_weight=0", "rebalance.attention=false"]),
        ("mixup", ["method.mixup_after=stage1", "data.mixing=none"]),
        ("crt", ["method.classifier=cosine", "method.classifier_scale=9"]),
        ("iccl", ["data.resample_start=0.5", "data.resample_gamma=1"]),
        ("iccl", ["data.mixing=cutmix", "data.mixing_probability=0.5", "method.cooldown_epochs=1"]),
        ("ce", ["method.class_loss=added_by_a_user", "method.focal_gamma=2"]),
    ],
)
def test_settings_with_effect_are_accepted(method, assignments):
    fasticcl.configure("demo", method=method, set=assignments)


def test_settings_of_files_and_presets_may_be_without_effect(tmp_path):
    for method in preset_names("method"):
        config = fasticcl.configure("demo", method=method)
        (tmp_path / "config.toml").write_text(config.to_toml())
        assert fasticcl.configure(config=tmp_path / "config.toml") == config


def test_all_losses_classifiers_and_readouts_are_checked():
    assert set(_SHIPPED["method.class_loss"]) == set(CLASS_LOSSES)
    assert set(_SHIPPED["method.classifier"]) == set(CLASSIFIERS)
    assert set(_SHIPPED["rebalance.readout"]) == {"none", *READOUTS}
