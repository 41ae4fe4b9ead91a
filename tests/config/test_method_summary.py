"""The parts of a method in words."""

import pytest

from fasticcl.config.method_summary import method_summary
from fasticcl.resolve import resolve


def summary(*assignments, method=None, dataset="cifar100-lt"):
    return method_summary(resolve(dataset, method=method, assignments=assignments))


@pytest.mark.parametrize("method", [None, "ce", "mixup"])
@pytest.mark.parametrize("dataset", ["cifar100-lt", "inat2018"])
def test_iccl_and_methods_with_its_parts_have_no_phrases(method, dataset):
    assert summary(method=method, dataset=dataset) == []


@pytest.mark.parametrize(
    ("assignments", "phrases"),
    [
        (
            ["data.mixing=none", "method.mixup_after=input,stage1,stage2"],
            ["manifold mixup after input, stage1 or stage2"],
        ),
        (["data.mixing=none", "method.mixup_after=pool"], ["manifold mixup after pool"]),
        (
            ["data.mixing=none", "method.mixup_after=stem,pool", "method.warmup_epochs=200"],
            ["manifold mixup after stem or pool in no epoch"],
        ),
        (["data.mixing=cutmix"], ["CutMix of both streams"]),
        (
            ["data.mixing=cutmix", "data.mixing_probability=0.5"],
            ["CutMix of both streams (probability 0.5)"],
        ),
        (["data.mixing_probability=0.25"], ["mixup of both streams (probability 0.25)"]),
        (["data.mixing=cutmix", "method.warmup_epochs=200"], ["CutMix of both streams in no epoch"]),
        (["method.class_loss=balanced_softmax"], ["loss balanced_softmax"]),
        (["method.class_loss=focal", "method.focal_gamma=2"], ["loss focal (γ = 2)"]),
        (["method.class_loss=sigmoid_focal"], ["loss sigmoid_focal (γ = 1)"]),
        (["method.class_loss=ldam", "method.ldam_margin=0.3"], ["loss ldam (margin = 0.3)"]),
        (
            ["method.class_loss=logit_adjustment", "method.logit_adjustment_tau=1.5"],
            ["loss logit_adjustment (τ = 1.5)"],
        ),
        (["method.classifier=cosine", "method.classifier_scale=16"], ["classifier cosine (scale 16)"]),
        (["method.classifier=causal"], ["classifier causal (2 heads, scale 30)"]),
        (["method.classifier=causal", "method.causal_heads=1"], ["classifier causal (1 head, scale 30)"]),
        (["rebalance.readout=tde", "rebalance.alpha=1.5"], ["readout tde (α = 1.5)"]),
        (
            ["method.class_weight_beta=0.9999", "method.class_weight_start=0.8"],
            ["class weights (β = 0.9999) from epoch 161, loss divided by the sum of the weights"],
        ),
        (
            ["method.class_weight_beta=0.9", "method.class_weight_norm=batch"],
            ["class weights (β = 0.9) from epoch 1, loss divided by the batch size"],
        ),
        (
            ["method.class_weight_beta=0.9", "method.class_weight_start=1"],
            ["class weights (β = 0.9) in no epoch, because class_weight_start is 1"],
        ),
        (["data.resample_start=0.8"], ["re-sampling (γ = 0) from epoch 161"]),
        (["data.resample_start=0", "data.resample_gamma=0.5"], ["re-sampling (γ = 0.5) from epoch 1"]),
        (["data.resample_start=0.999"], ["re-sampling (γ = 0) in no epoch, because resample_start is 0.999"]),
        (
            ["rebalance.encoder=frozen", "rebalance.classifier=reinit"],
            ["second stage trains a new classifier"],
        ),
        (["rebalance.classifier=reinit"], ["second stage trains the encoder and a new classifier"]),
        (
            ["rebalance.encoder=frozen", "rebalance.classifier=frozen", "rebalance.class_scale=true"],
            ["second stage trains the class scales"],
        ),
        (
            [
                "rebalance.encoder=frozen",
                "rebalance.class_scale=true",
                "rebalance.batch_norm=train",
                "rebalance.classifier_lr_factor=0.2",
                "rebalance.smoothing_head=0.4",
                "rebalance.smoothing_tail=0.1",
            ],
            [
                "second stage trains the classifier (learning rate × 0.2) and the class scales",
                "second stage with batch norm in train mode",
                "second stage with label smoothing from 0.4 (largest class) to 0.1 (smallest class)",
            ],
        ),
        (
            ["rebalance.classifier=memory"],
            ["second stage trains the encoder and a classifier with a memory of class centroids"],
        ),
        (["rebalance.smoothing_tail=0.1", "rebalance.epochs=0"], []),
        (["rebalance.readout=tau_norm", "rebalance.tau=0.7"], ["readout tau_norm (τ = 0.7)"]),
        (["rebalance.readout=log_prior", "rebalance.epochs=0"], ["readout log_prior (τ = 1)"]),
        (["rebalance.readout=ncm", "rebalance.classifier=reinit"], ["readout ncm"]),
    ],
)
def test_each_part_that_differs_from_iccl_has_a_phrase(assignments, phrases):
    assert summary(*assignments) == phrases


def test_epochs_are_those_of_a_shortened_run():
    config = resolve("cifar100-lt", assignments=["data.resample_start=0.8", "method.class_weight_beta=0.9"])
    assert method_summary(config.shortened()) == [
        "class weights (β = 0.9) from epoch 1, loss divided by the sum of the weights",
        "re-sampling (γ = 0) from epoch 2",
    ]


TRANSLATION = "translation (10 steps of 0.1, β = 0.999, γ = 0.9, λ = 0.5, noise 0.5)"


@pytest.mark.parametrize(
    ("assignments", "phrases"),
    [
        (
            ["method.seed_run=/runs/demo/ce-3"],
            [f"{TRANSLATION} from epoch 121", "seed network of the run ce-3"],
        ),
        (
            ["data.resample_start=0", "method.m2m_noise=0.2", "method.m2m_steps=1"],
            [
                "translation (1 step of 0.1, β = 0.999, γ = 0.9, λ = 0.5, noise 0.2) from epoch 1",
                "seed network trained first with cross-entropy",
            ],
        ),
        (["optim.epochs=1"], []),
    ],
)
def test_major_to_minor_translation_has_phrases(assignments, phrases):
    _, *others = summary(*assignments, method="m2m")
    assert others == phrases


def test_oltr_has_phrases_for_its_memory_and_its_attention():
    classifier = "a classifier with a memory of class centroids (learning rate × 10)"
    memory = f"second stage trains the encoder and {classifier}"
    assert summary(method="oltr") == [memory]
    assert summary(method="oltr", dataset="inat2018") == [memory, "second stage with modulated attention"]


def test_published_schedule_has_a_phrase():
    config = resolve("cifar100-lt", method="ldam-drw", recipe="published")
    assert method_summary(config) == [
        "loss ldam (margin = 0.5)",
        "classifier cosine (scale 30)",
        "class weights (β = 0.9999) from epoch 161, loss divided by the sum of the weights",
        "published schedule",
    ]


@pytest.mark.parametrize(("fraction", "start"), [(0.0, 0), (0.3, 1), (0.9, 1), (1.0, None)])
def test_deferred_parts_start_in_the_second_short_epoch_or_never(fraction, start):
    settings = {
        "data": {"resample_start": fraction},
        "method": {"class_weight_beta": 0.9, "class_weight_start": fraction},
    }
    short = resolve("demo", method="ce", options=settings).shortened()
    assert (short.resample_epoch, short.class_weight_epoch) == (start, start)


def test_encoder_with_two_tails_has_a_phrase():
    assert summary(method="bbn") == ["encoder with two tails"]
