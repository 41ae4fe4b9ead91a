"""Settings of a request on top of the paper's protocol."""

import pytest

from fasticcl.config.layers import as_layer
from fasticcl.errors import UserError
from fasticcl.reproduce.planning.requested_settings import RequestedSettings
from fasticcl.reproduce.request import Request
from fasticcl.reproduce.run_key import run_key
from fasticcl.resolve import configure


def apply(method="iccl", dataset="cifar100-lt", recipe=None, base=(), epochs=None, **settings):
    """Return the configuration of a method with settings, whose keys have two underscores for a dot."""
    layer = as_layer({key.replace("__", "."): value for key, value in settings.items()})
    published = configure(dataset, method=method, recipe=recipe, set=dict(base))
    return RequestedSettings.of(Request("table1", epochs=epochs, settings=layer)).apply(published)


def test_nothing_requested_leaves_the_published_configuration():
    assert apply() == (configure("cifar100-lt"), [])


@pytest.mark.parametrize("epochs", [1, 20, 60, 200, 400])
@pytest.mark.parametrize("recipe", ["preset", "published"])
def test_warm_up_of_the_rate_keeps_its_share(epochs, recipe):
    config, _ = apply("logit-adjustment", recipe=recipe, epochs=epochs)
    warmup, of = {"preset": (5, 200), "published": (22, 1419)}[recipe]
    assert config.optim.warmup_epochs == max(1, round(warmup / of * epochs))
    assert config.optim.epochs == epochs


def test_warm_up_that_is_set_is_kept():
    config, _ = apply(optim__epochs=60, optim__warmup_epochs=7, method__warmup_epochs=11)
    assert (config.optim.warmup_epochs, config.method.warmup_epochs) == (7, 11)


def test_set_overrides_options():
    config, _ = apply(epochs=30, optim__epochs=60)
    assert (config.optim.epochs, config.method.warmup_epochs) == (60, 24)


def test_no_warm_up_stays_none():
    config, _ = apply(dataset="imagenet-lt", epochs=9)
    assert config.optim.warmup_epochs == 0
    assert config.method.warmup_epochs == 4  # 40 of 90


def test_t_keeps_its_share_of_the_published_epochs():
    config, _ = apply(dataset="inat2018", base={"optim.epochs": 200}, epochs=60)
    assert config.method.warmup_epochs == 30  # 100 of 200, not 40 of 90


@pytest.mark.parametrize(
    ("method", "setting", "value", "is_used"),
    [
        ("ce", "rebalance__gamma", 0.5, False),
        ("ce", "rebalance__epochs", 3, False),  # would add a second stage
        ("crt", "rebalance__gamma", 0.5, True),
        ("crt", "rebalance__tau", 0.5, False),
        ("tau-norm", "rebalance__tau", 0.5, True),
        ("tau-norm", "rebalance__epochs", 3, False),
        ("ncm", "rebalance__tau", 0.5, False),
        ("iccl", "rebalance__epochs", 3, True),
        ("ce", "method__focal_gamma", 2.0, False),
        ("focal", "method__focal_gamma", 2.0, True),
        ("ce", "method__temperature", 0.5, False),
        ("iccl", "method__temperature", 0.5, True),
        ("ce", "optim__lr", 0.5, True),
    ],
)
def test_setting_is_applied_where_it_is_used(method, setting, value, is_used):
    config, unused = apply(method, **{setting: value})
    path = setting.replace("__", ".")
    assert unused == ([] if is_used else [path])
    assert (run_key(config) != run_key(configure("cifar100-lt", method=method))) == is_used


@pytest.mark.parametrize(
    "setting", ["engine.seed", "engine.name", "engine.project", "data.dir", "data.imbalance", "method.name"]
)
def test_setting_of_a_single_cell_is_refused(setting):
    with pytest.raises(UserError, match=f"{setting} cannot be set here"):
        RequestedSettings.of(Request("table1", settings=as_layer({setting: 1})))


def test_schedule_of_all_rows_can_be_chosen():
    settings = RequestedSettings.of(Request("table1", recipe="preset"))
    assert settings.recipe == "preset"
    assert settings.paths == []
    with pytest.raises(UserError, match="There is no recipe 'x'"):
        RequestedSettings.of(Request("table1", recipe="x"))
