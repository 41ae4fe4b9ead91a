"""Differences between the training of a run and that of the paper."""

import pytest

from fasticcl.paper.protocol import protocol_differences
from fasticcl.resolve import configure, resolve

PAPER = resolve("cifar100-lt")


def differences(dataset="cifar100-lt", published=PAPER, subset=None, **options):
    return protocol_differences(configure(dataset, **options), published, subset)


def test_the_protocol_of_the_paper_has_no_differences():
    hardware = {
        "engine.precision": "bfloat16",
        "engine.device": "cpu",
        "data.dir": "elsewhere",
        "data.cache": "off",
        "data.eval_split": "test",
        "data.decode_regions": False,
    }
    assert differences(seed=7, set=hardware) == []


def test_differences_begin_with_images_epochs_and_encoder():
    settings = {
        "method.temperature": 0.1,
        "optim.lr": 0.05,
        "optim.batch_size": 64,
        "method.encoder": "resnet8",
        "optim.epochs": 60,
        "optim.warmup_epochs": 2,
        "rebalance.epochs": 3,
        "data.flip": 0,
        "method.centroid_contrastive": False,
    }
    assert differences(set=settings, imbalance=50, subset="file-names-seed0") == [
        "another choice of images",
        "imbalance ratio 50 (paper: 100)",
        "60 epochs (paper: 200)",
        "encoder resnet8 (paper: resnet32)",
        "batch size 64 (paper: 128)",
        "learning rate 0.05 (paper: 0.1)",
        "second stage: 3 epochs (paper: 10 epochs)",
        "data.flip 0 (paper: 0.5)",
        "method.temperature 0.1 (paper: 0.3)",
        "method.centroid_contrastive false (paper: true)",
    ]


@pytest.mark.parametrize(
    ("epochs", "settings", "different"),
    [
        (60, {}, False),  # T = 24
        (60, {"method.warmup_epochs": 26}, True),
        (7, {}, False),  # T = 3, which is 2.8 rounded
        (100, {"method.warmup_epochs": 80}, True),  # the number of the paper, but another fraction
        (200, {"method.warmup_epochs": 0}, True),
    ],
)
def test_T_is_compared_as_a_fraction_of_the_epochs(epochs, settings, different):
    named = [text for text in differences(epochs=epochs, set=settings) if text.startswith("T = ")]
    assert bool(named) == different


def test_learning_rate_warmup_of_the_same_length_or_fraction_is_no_difference():
    for warmup, expected in ((5, 0), (2, 0), (1, 0), (4, 1)):
        found = differences(epochs=60, set={"optim.warmup_epochs": warmup})
        assert len(found) == 1 + expected, found


def test_a_single_epoch_is_singular():
    assert differences(epochs=1, set={"rebalance.epochs": 1}) == [
        "1 epoch (paper: 200)",
        "second stage: 1 epoch (paper: 10 epochs)",
    ]


def test_settings_that_neither_training_uses_are_not_named():
    unused = {
        "data.gamma": 1.0,
        "method.temperature": 0.5,
        "method.warmup_epochs": 0,
        "rebalance.lr_factor": 1.0,
        "rebalance.distillation_temperature": 2.0,
    }
    ce = resolve("cifar100-lt", method="ce")
    assert protocol_differences(resolve("cifar100-lt", method="ce", options=layer(unused)), ce) == []
    assert len(protocol_differences(resolve("cifar100-lt", options=layer(unused)), PAPER)) == 5
    mixed = layer({"method.interpolative_weight": 1.0, "data.gamma": 1.0})
    assert protocol_differences(resolve("cifar100-lt", method="ce", options=mixed), ce) == [
        "data.gamma 1 (paper: 0)",
        "method.interpolative_weight 1 (paper: 0)",
    ]
    cosine = {"optim.schedule": "cosine", "optim.milestones": [0.5], "optim.decay": 0.1}
    assert differences(set=cosine) != []
    assert differences("imagenet-lt", resolve("imagenet-lt"), set=cosine) == []


def test_a_second_stage_that_is_missing_or_added():
    ce, tau, crt = (resolve("cifar100-lt", method=name) for name in ("ce", "tau-norm", "crt"))
    assert protocol_differences(ce, crt) == ["second stage: none (paper: 10 epochs)"]
    assert protocol_differences(crt, ce) == ["second stage: 10 epochs (paper: none)"]
    assert protocol_differences(ce, tau) == ["second stage: none (paper: tau_norm)"]
    assert protocol_differences(tau, ce) == ["second stage: tau_norm (paper: none)"]
    assert differences(method="tau-norm", published=tau, set={"rebalance.tau": 0.7}) == [
        "rebalance.tau 0.7 (expected: 1)"  # the paper does not state τ
    ]


def test_on_another_dataset_only_dataset_epochs_and_encoder_are_named():
    assert differences("demo", epochs=4) == [
        "dataset demo (paper: cifar100-lt)",
        "4 epochs (paper: 200)",
        "encoder resnet14 (paper: resnet32)",
    ]


def test_a_trial_run_is_named():
    assert differences(fast_dev_run=True) == ["a few steps of each phase (--fast-dev-run)"]


def layer(settings):
    sections: dict[str, dict[str, object]] = {}
    for path, value in settings.items():
        section, _, key = path.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections
