"""Keys of runs: equal training, equal key."""

import pytest

from fasticcl.reproduce.run_key import first_stage_key, run_key
from fasticcl.resolve import configure, resolve, validate


def config(method="iccl", **settings):
    return configure(
        "cifar100-lt", method=method, set={f"{k.replace('__', '.')}": v for k, v in settings.items()}
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [("engine.workers", 7), ("engine.name", "n"), ("engine.eval_every", 7), ("data.dir", "elsewhere")],
)
def test_settings_that_do_not_change_the_result_do_not_change_the_key(setting, value):
    assert run_key(configure("cifar100-lt", set={setting: value})) == run_key(config())


@pytest.mark.parametrize("settings", [{"engine__seed": 1}, {"optim__epochs": 60}, {"rebalance__gamma": 0.5}])
def test_settings_that_change_the_result_change_the_key(settings):
    assert run_key(config(**settings)) != run_key(config())


@pytest.mark.parametrize("method", ["crt", "lws", "tau-norm", "ncm"])
def test_second_stages_of_cross_entropy_share_its_first_stage(method):
    assert first_stage_key(config(method)) == first_stage_key(config("ce"))
    assert run_key(config(method)) != run_key(config("ce"))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ce", {"rebalance__gamma": 0.5}),
        ("ncm", {"rebalance__tau": 0.5}),
        ("tau-norm", {"rebalance__epochs": 3}),
        ("crt", {"rebalance__tau": 0.5}),
        ("ce", {"method__focal_gamma": 3.0}),
        ("ce", {"data__alpha": 0.2}),
        ("ce", {"data__gamma": 0.5, "method__warmup_epochs": 7, "method__uniform_weight": 0.5}),
        ("mixup", {"method__temperature": 0.5, "method__embedding_dim": 7}),
        ("crt", {"rebalance__distillation_temperature": 3.0}),
    ],
)
def test_settings_without_an_effect_are_not_in_the_key(method, settings):
    values = resolve("cifar100-lt", method=method).model_dump()
    for path, value in settings.items():
        section, _, key = path.partition("__")
        values[section][key] = value
    assert run_key(validate(values)) == run_key(config(method))


def test_tau_of_a_readout_is_in_the_key():
    assert run_key(config("tau-norm", rebalance__tau=0.5)) != run_key(config("tau-norm"))


def test_iccl_has_another_first_stage_than_cross_entropy():
    assert first_stage_key(config("iccl")) != first_stage_key(config("ce"))
