"""The values of the method presets: the parameters and schedules of the publications."""

import math

import pytest

from fasticcl.engine.optim import representation_lr
from fasticcl.preset_files import MethodPreset, preset_names
from fasticcl.resolve import resolve

SCHEDULES = [
    (dataset, name) for name in preset_names("method") for dataset in MethodPreset.read(name).schedules
]
CIFAR_LT = ("cifar100-lt", "cifar10-lt")
S_LDAM = [0.1 * (e + 1) / 5 for e in range(5)] + [0.1] * 155 + [1e-3] * 20 + [1e-5] * 20
LDAM_INAT = [0.1] * 30 + [0.01] * 30 + [0.001] * 30
DEC = [0.1 * (1 + math.cos(math.pi * e / 90)) for e in range(90)]  # rate 0.2


def value(config, path):
    section, key = path.split(".")
    return getattr(getattr(config, section), key)


@pytest.mark.parametrize("method", preset_names("method"))
@pytest.mark.parametrize("dataset", preset_names())
def test_every_method_has_the_schedule_of_the_dataset(dataset, method):
    fair, iccl = resolve(dataset, method=method), resolve(dataset)
    assert fair.optim == iccl.optim
    assert fair.rebalance.lr_factor == iccl.rebalance.lr_factor
    assert fair.rebalance.epochs in (0, iccl.rebalance.epochs)


@pytest.mark.parametrize(("dataset", "method"), SCHEDULES)
def test_a_published_schedule_differs_in_each_of_its_values(dataset, method):
    fair, published = (resolve(dataset, method=method, recipe=recipe) for recipe in (None, "published"))
    schedule = MethodPreset.read(method).schedules[dataset]
    for section, values in schedule.items():
        for key, expected in values.items():
            expected = tuple(expected) if isinstance(expected, list) else expected
            assert value(published, f"{section}.{key}") == expected != value(fair, f"{section}.{key}")
    others = {"data": {}, "method": {"warmup_epochs": fair.method.warmup_epochs}}  # T follows the epochs
    for section, same in others.items():
        same |= {key: value(fair, f"{section}.{key}") for key in schedule.get(section, {})}
        assert getattr(published, section).model_copy(update=same) == getattr(fair, section)


ONE_STAGE = {"rebalance.epochs": 0, "rebalance.readout": "none"}
DRW = {"method.class_weight_beta": 0.9999, "method.class_weight_norm": "weights"}
LDAM = DRW | {"method.classifier": "cosine", "method.classifier_scale": 30, "method.class_loss": "ldam"}
CAUSAL = {
    "method.class_loss": "cross_entropy",
    "method.classifier": "causal",
    "method.classifier_scale": 16,
    "method.causal_heads": 2,
    "method.causal_gamma": 1 / 32,
    "method.causal_momentum": 0.9,
    "rebalance.readout": "tde",
}
M2M = {
    "data.resample_gamma": 0,
    "method.classifier": "linear",
    "method.class_loss": "cross_entropy",
    "method.m2m_beta": 0.999,
    "method.m2m_lambda": 0.5,
    "method.m2m_confidence": 0.9,
    "method.m2m_step_size": 0.1,
    "method.m2m_steps": 10,
    "method.m2m_noise": 0.5,
}
LOGIT_ADJUSTMENT = {"method.class_loss": "logit_adjustment", "method.logit_adjustment_tau": 1}
STAGE_2 = {
    "rebalance.gamma": 0,
    "rebalance.distillation_weight": 0,
    "rebalance.encoder": "frozen",
    "rebalance.batch_norm": "train",
}


BBN = {
    "data.mixing": "none",
    "data.gamma": 1,
    "method.first_stage": "bbn",
    "method.classifier": "linear",
    "method.class_loss": "cross_entropy",
}
MEMORY = {
    "rebalance.gamma": 0,
    "rebalance.distillation_weight": 0,
    "rebalance.encoder": "tuned",
    "rebalance.classifier": "memory",
    "rebalance.classifier_lr_factor": 10,
    "rebalance.centroid_loss_weight": 0.01,
}
CMO = ONE_STAGE | {
    "data.mixing": "cutmix",
    "data.mixing_probability": 0.5,
    "data.alpha": 1,
    "data.beta": 1,
    "data.lambda_per": "batch",
    "data.gamma": 0,
    "method.class_loss": "cross_entropy",
    "method.warmup_epochs": 4,
    "method.cooldown_epochs": 3,
    "method.uniform_weight": 0,
}


def sigmoid_focal(gamma, beta, norm):
    loss = {"class_loss": "sigmoid_focal", "focal_gamma": gamma}
    weights = {"class_weight_beta": beta, "class_weight_norm": norm, "class_weight_start": 0}
    return ONE_STAGE | {f"method.{key}": setting for key, setting in (loss | weights).items()}


def manifold_mixup(gamma):
    mixing = {"data.mixing": "none", "data.gamma": gamma, "data.alpha": 1, "data.beta": 1}
    blocks = {"method.mixup_after": ("input", "stage1", "stage2"), "method.uniform_weight": 0}
    return ONE_STAGE | mixing | blocks | {"data.lambda_per": "batch"}


def smoothing(head, tail, factor, alpha, **others):
    stage = {"smoothing_head": head, "smoothing_tail": tail, "classifier_lr_factor": factor} | others
    mixing = {"data.gamma": -1, "data.alpha": alpha, "data.beta": alpha, "rebalance.class_scale": True}
    return STAGE_2 | mixing | {f"rebalance.{key}": setting for key, setting in stage.items()}


@pytest.mark.parametrize(
    ("method", "dataset", "expected"),
    [
        ("focal", "cifar10-lt", ONE_STAGE | {"method.class_loss": "focal", "method.focal_gamma": 1}),
        ("focal", "imagenet-lt", {"method.class_loss": "focal", "method.focal_gamma": 2}),
        ("focal-sigmoid", "cifar100-lt", sigmoid_focal(1, 0, "weights")),
        ("cb-focal", "cifar100-lt", sigmoid_focal(1, 0.9, "batch")),
        ("cb-focal", "cifar10-lt", sigmoid_focal(1, 0.9999, "batch")),
        ("cb-focal", "inat2018", sigmoid_focal(0.5, 0.999, "batch")),
        ("ce-drw", "cifar10-lt", ONE_STAGE | DRW | {"method.class_loss": "cross_entropy"}),
        ("ce-drs", "cifar10-lt", ONE_STAGE | {"data.resample_gamma": 0, "method.class_weight_beta": 0}),
        ("m2m", "cifar10-lt", ONE_STAGE | M2M | {"data.resample_start": 0.6}),
        ("m2m", "inat2018", ONE_STAGE | M2M),
        ("ldam-drw", "cifar100-lt", ONE_STAGE | LDAM | {"method.ldam_margin": 0.5}),
        ("ldam-drw", "inat2018", ONE_STAGE | LDAM | {"method.ldam_margin": 0.3}),
        ("crt", "cifar10-lt", STAGE_2 | {"rebalance.classifier": "reinit", "rebalance.class_scale": False}),
        ("lws", "cifar10-lt", STAGE_2 | {"rebalance.classifier": "frozen", "rebalance.class_scale": True}),
        ("mislas", "cifar100-lt", smoothing(0.4, 0.1, 0.2, 1)),
        ("mislas", "cifar10-lt", smoothing(0.3, 0, 0.5, 1, batch_norm="eval")),
        ("mislas", "imagenet-lt", smoothing(0.3, 0, 0.05, 0.2)),
        ("oltr", "cifar100-lt", MEMORY | {"rebalance.attention": False}),
        ("oltr", "imagenet-lt", MEMORY | {"rebalance.attention": True}),
        ("oltr", "inat2018", MEMORY | {"rebalance.attention": True}),
        ("oltr", "folder", MEMORY | {"rebalance.attention": False}),
        ("balanced-softmax", "demo", ONE_STAGE | {"method.class_loss": "balanced_softmax"}),
        ("logit-adjustment", "demo", ONE_STAGE | LOGIT_ADJUSTMENT),
        ("mixup", "cifar10-lt", ONE_STAGE | {"data.gamma": -1, "method.uniform_weight": 0}),
        ("manifold-mixup", "cifar10-lt", manifold_mixup(-1)),
        ("manifold-mixup-two-samplers", "inat2018", manifold_mixup(1)),
        *(("cmo", dataset, CMO) for dataset in ("cifar10-lt", "imagenet-lt", "inat2018", "folder", "demo")),
        ("bbn", "cifar100-lt", ONE_STAGE | BBN),
        ("bbn", "inat2018", ONE_STAGE | BBN),
        ("ncm", "folder", {"rebalance.readout": "ncm"}),
        ("tde", "cifar100-lt", CAUSAL | {"rebalance.alpha": 1.5, "method.causal_momentum_decay": False}),
        ("tde", "cifar10-lt", CAUSAL | {"rebalance.alpha": 1, "method.causal_momentum_decay": False}),
        ("tde", "imagenet-lt", CAUSAL | {"rebalance.alpha": 3, "method.causal_momentum_decay": True}),
        ("tau-norm", "inat2018", {"rebalance.readout": "tau_norm", "rebalance.tau": 1}),
        ("logit-adjustment-post-hoc", "demo", {"rebalance.readout": "log_prior", "rebalance.tau": 1}),
    ],
)
def test_methods_have_their_published_parameters(method, dataset, expected):
    config = resolve(dataset, method=method)
    assert {path: value(config, path) for path in expected} == expected


def schedule(epochs, batch_size, lr, weight_decay, **others):
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay} | others
    return {f"optim.{key}": setting for key, setting in settings.items()}


def second_stage(epochs):
    return {"rebalance.epochs": epochs, "rebalance.lr_factor": 1}


OLTR_STAGE_2 = {"rebalance.epochs": 60, "rebalance.lr_factor": 0.1}
TF = {"nesterov": True, "decay": 0.1, "warmup_start": 0}  # of the code for TensorFlow


@pytest.mark.parametrize(
    ("method", "dataset", "expected"),
    [
        ("crt", "imagenet-lt", schedule(90, 512, 0.2, 5e-4) | second_stage(10)),
        ("crt", "inat2018", schedule(90, 512, 0.2, 1e-4) | second_stage(30)),
        ("lws", "imagenet-lt", schedule(90, 512, 0.2, 5e-4) | second_stage(5)),
        ("lws", "inat2018", schedule(90, 512, 0.2, 1e-4) | second_stage(5)),
        ("mislas", "cifar10-lt", schedule(200, 128, 0.1, 5e-4, nesterov=False) | second_stage(10)),
        ("mislas", "cifar100-lt", schedule(200, 128, 0.1, 5e-4, nesterov=False) | second_stage(10)),
        ("mislas", "imagenet-lt", schedule(180, 256, 0.1, 5e-4, schedule="cosine") | second_stage(10)),
        ("mislas", "inat2018", schedule(200, 256, 0.1, 1e-4, schedule="cosine") | second_stage(10)),
        ("oltr", "imagenet-lt", schedule(30, 128, 0.1, 5e-4, decay=0.1) | OLTR_STAGE_2),
        *(
            (method, dataset, schedule(200, 128, 0.1, 2e-4, nesterov=True, milestones=(0.6, 0.8)))
            for method in ("mixup", "manifold-mixup", "manifold-mixup-two-samplers")
            for dataset in CIFAR_LT
        ),
        (
            "tde",
            "cifar10-lt",
            schedule(200, 256, 0.2, 5e-4, nesterov=False, milestones=(0.6, 0.8), decay=0.01),
        ),
        (
            "tde",
            "cifar100-lt",
            schedule(200, 256, 0.2, 5e-4, nesterov=False, milestones=(0.6, 0.8), decay=0.01),
        ),
        ("tde", "imagenet-lt", schedule(90, 512, 0.2, 5e-4, nesterov=False, schedule="cosine")),
        ("bbn", "cifar10-lt", schedule(200, 128, 0.1, 2e-4, nesterov=True, milestones=(0.6, 0.8))),
        ("bbn", "cifar100-lt", schedule(200, 128, 0.1, 2e-4, nesterov=True, milestones=(0.6, 0.8))),
        ("bbn", "inat2018", schedule(90, 128, 0.05, 1e-4, nesterov=True, momentum=0.9)),
        ("cb-focal", "inat2018", schedule(90, 1024, 1.6, 1e-4, **TF)),
        *(
            (
                f"logit-adjustment{suffix}",
                dataset,
                schedule(epochs, 128, 0.1, 2e-4, warmup_epochs=warmup, **TF),
            )
            for suffix in ("", "-post-hoc")
            for dataset, epochs, warmup in (("cifar10-lt", 1241, 20), ("cifar100-lt", 1419, 22))
        ),
    ],
)
def test_published_schedules_have_the_values_of_the_official_code(method, dataset, expected):
    config = resolve(dataset, method=method, recipe="published")
    assert {path: value(config, path) for path in expected} == expected


MIXED = {"iccl", "mixup", "mislas", "bbn", "cmo", "manifold-mixup", "manifold-mixup-two-samplers"}


@pytest.mark.parametrize("method", sorted({*preset_names("method")} - MIXED))
def test_methods_train_on_plain_images_without_centroids(method):
    config = resolve("cifar10-lt", method=method)
    deferred = {"translation"} if method == "m2m" else set()
    assert {config.phase(epoch) for epoch in range(200)} == {"warmup"} | deferred
    assert not config.method.centroid_contrastive


@pytest.mark.parametrize(
    ("dataset", "epochs"), [("cifar100-lt", 200), ("imagenet-lt", 100), ("inat2018", 100)]
)
def test_cmo_mixes_in_the_epochs_of_the_official_code(dataset, epochs):
    config = resolve(dataset, method="cmo", recipe="published")
    mixing = [epoch for epoch in range(epochs) if config.phase(epoch) == "interpolative"]
    assert (config.optim.epochs, mixing) == (epochs, [e for e in range(epochs) if 3 < e < epochs - 3])


@pytest.mark.parametrize("dataset", CIFAR_LT)
@pytest.mark.parametrize(
    "method", ["ce", "focal", "focal-sigmoid", "cb-focal", "ce-drw", "ce-drs", "ldam-drw", "cmo", "m2m"]
)
def test_the_published_schedule_on_cifar_is_that_of_ldam(dataset, method):
    optim = resolve(dataset, method=method, recipe="published").optim
    rates = [representation_lr(epoch, optim) for epoch in range(optim.epochs)]
    assert rates == pytest.approx(S_LDAM)
    assert (optim.batch_size, optim.momentum, optim.weight_decay, optim.nesterov) == (128, 0.9, 2e-4, False)


@pytest.mark.parametrize(
    ("dataset", "method", "batch_size", "rates"),
    [
        *[("inat2018", method, 256, LDAM_INAT) for method in ("ce-drw", "ce-drs", "ldam-drw")],
        ("inat2018", "bbn", 128, [0.05] * 60 + [0.005] * 20 + [0.0005] * 10),
        *[("imagenet-lt", m, 512, DEC) for m in ("ce", "focal", "crt", "lws", "ncm", "balanced-softmax")],
        *[("inat2018", method, 512, DEC) for method in ("ce", "crt", "lws", "tau-norm", "ncm", "iccl")],
        ("imagenet-lt", "oltr", 128, [0.1] * 10 + [0.01] * 10 + [0.001] * 10),
        ("imagenet-lt", "cmo", 128, [*S_LDAM[:5], *[0.1] * 55, *[0.01] * 20, *[0.001] * 20]),
        ("inat2018", "cmo", 256, [*S_LDAM[:5], *[0.1] * 70, *[0.01] * 25]),
        (
            "inat2018",
            "cb-focal",
            1024,
            [
                *(1.6 * (e + 1) / 5 for e in range(5)),
                *[1.6] * 25,
                *[0.16] * 30,
                *[0.016] * 20,
                *[0.0016] * 10,
            ],
        ),
        (
            "cifar100-lt",
            "mislas",
            128,
            [0.1 * (e + 1) / 5 for e in range(5)] + [0.1] * 155 + [0.01] * 20 + [0.001] * 20,
        ),
    ],
)
def test_other_published_schedules(dataset, method, batch_size, rates):
    optim = resolve(dataset, method=method, recipe="published").optim
    assert optim.batch_size == batch_size
    assert [representation_lr(epoch, optim) for epoch in range(optim.epochs)] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("dataset", "expected"), [("cifar10-lt", [604, 926, 1128]), ("cifar100-lt", [691, 1059, 1290])]
)
@pytest.mark.parametrize("method", ["logit-adjustment", "logit-adjustment-post-hoc"])
def test_logit_adjustment_decays_at_its_published_epochs(method, dataset, expected):
    optim = resolve(dataset, method=method, recipe="published").optim
    decays = [
        e for e in range(30, optim.epochs) if representation_lr(e, optim) < representation_lr(e - 1, optim)
    ]
    assert decays == expected


@pytest.mark.parametrize(
    ("dataset", "epochs", "start"),
    [
        ("cifar10-lt", 200, 120),
        ("cifar100-lt", 200, 120),
        ("cifar10-lt", 60, 36),
        ("inat2018", 90, 60),
        ("imagenet-lt", 90, 60),
        ("folder", 90, 60),
        ("demo", 50, 34),
    ],
)
def test_deferred_methods_start_at_their_epoch(dataset, epochs, start):
    for method, path in (
        ("ce-drw", "method.class_weight_start"),
        ("ldam-drw", "method.class_weight_start"),
        ("ce-drs", "data.resample_start"),
    ):
        config = resolve(dataset, method=method, options={"optim": {"epochs": epochs}})
        assert config.optim.epoch_after(value(config, path)) == start


@pytest.mark.parametrize("method", ["ce-drw", "ldam-drw", "ce-drs"])
@pytest.mark.parametrize("recipe", ["preset", "published"])
def test_deferred_methods_start_on_cifar_at_the_first_decay_of_the_rate(method, recipe):
    """The published switch is at epoch 160, where the published rate decays for the first time."""
    config = resolve("cifar100-lt", method=method, recipe=recipe)
    share = config.data.resample_start if method == "ce-drs" else config.method.class_weight_start
    start = config.optim.epoch_after(share)
    assert start == {"preset": 120, "published": 160}[recipe]
    rates = [representation_lr(epoch, config.optim) for epoch in range(200)]
    assert rates[start - 1] == pytest.approx(0.1)
    assert rates[start] == pytest.approx(1e-3)
