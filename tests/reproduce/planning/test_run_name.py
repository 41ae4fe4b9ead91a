"""Names of runs: readable, and different for different training."""

from itertools import combinations

import pytest

from fasticcl.config import SECTIONS
from fasticcl.reproduce.planning.run_name import _PREFIXES, run_name
from fasticcl.resolve import configure


def name(dataset="cifar100-lt", method="iccl", **options):
    return run_name(configure(dataset, method=method, **options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "crt"}, "crt-r100-s0"),
        ({"imbalance": 50, "seed": 2}, "iccl-r50-s2"),
        ({"set": {"data.gamma": 0.5}}, "iccl-r100-gamma0.5-s0"),
        ({"set": {"rebalance.gamma": 0.5}}, "iccl-r100-rebalance-gamma0.5-s0"),
        ({"method": "ce", "recipe": "published"}, "ce-published-r100-s0"),
        ({"dataset": "demo"}, "iccl-s0"),
        (
            {"set": {"method.encoder": "resnet8", "engine.precision": "bfloat16"}},
            "iccl-r100-resnet8-bfloat16-s0",
        ),
        ({"epochs": 60, "set": {"optim.warmup_epochs": 2}}, "iccl-r100-60ep-s0"),
        ({"set": {"rebalance.epochs": 3}}, "iccl-r100-200+3ep-s0"),
        ({"method": "ncm", "set": {"rebalance.epochs": 3}}, "ncm-r100-s0"),
        ({"set": {"method.centroid_contrastive": False}}, "iccl-r100-centroid_contrastive-false-s0"),
    ],
)
def test_name_has_the_settings_that_differ_from_the_presets(options, expected):
    assert name(**options) == expected


def test_three_settings_are_a_hash():
    one, other = (name(set={"data.gamma": 0.5, "data.alpha": 0.2, "data.beta": beta}) for beta in (0.2, 0.3))
    assert one != other
    assert len(one) == len("iccl-r100-12345678-s0")


def test_settings_of_a_stage_that_is_not_run_are_not_in_the_name():
    assert name(method="tau-norm", set={"rebalance.gamma": 0.5}) == "tau-norm-r100-s0"


def test_keys_of_two_sections_differ_in_the_name():
    for one, other in combinations(SECTIONS, 2):
        shared = SECTIONS[one].model_fields.keys() & SECTIONS[other].model_fields.keys() - {"name"}
        assert not shared or _PREFIXES.get(one, "") != _PREFIXES.get(other, "")
