"""Phases, counted images and counted operations in benchmarks/method_step.py."""

import importlib
from pathlib import Path

import pytest

from fasticcl.preset_files import preset_names


@pytest.fixture(scope="module")
def method_step():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield importlib.import_module("method_step")


def steps_of(method_step, method, **settings):
    config = method_step.configuration(method, "resnet8")
    config = config.model_copy(update={"method": config.method.model_copy(update=settings)})
    return [(part, method_step.Step(config, part)) for part in method_step.parts_of(config)]


@pytest.fixture
def small(monkeypatch, method_step):
    """One counted step on 4 images."""
    configuration = method_step.configuration

    def with_small_batches(method, encoder):
        config = configuration(method, encoder)
        return config.model_copy(update={"optim": config.optim.model_copy(update={"batch_size": 4})})

    monkeypatch.setattr(method_step, "configuration", with_small_batches)
    monkeypatch.setattr(method_step, "COUNTED", 1)
    monkeypatch.setattr(method_step, "COUNTED_BATCH", 4)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ce", [("warmup", 200, 1, 1, 3)]),
        ("mixup", [("interpolative", 200, 2, 1, 3)]),
        ("crt", [("warmup", 200, 1, 1, 3), ("rebalance", 10, 1, 1, 1)]),
        # x_h without gradient, and a teacher without gradient beside the tuned encoder
        ("iccl", [("warmup", 80, 1, 1, 3), ("interpolative", 120, 2, 2, 4), ("rebalance", 10, 1, 2, 4)]),
    ],
)
@pytest.mark.usefixtures("small")
def test_phases_have_their_images_and_operations(method_step, method, expected):
    """The backward pass costs as much as two forward passes, apart from that to the images."""
    ((_, ce),) = steps_of(method_step, "ce")
    found = steps_of(method_step, method)
    assert [(part.phase, part.epochs, step.decoded, step.passed) for part, step in found] == [
        each[:4] for each in expected
    ]
    assert [3 * step.flops / ce.flops for _, step in found] == pytest.approx(
        [each[4] for each in expected], rel=0.05
    )


@pytest.mark.usefixtures("small")
def test_the_seed_stage_and_the_translation_are_counted(method_step):
    (seed, _), (warmup, plain), (translation, step) = steps_of(method_step, "m2m", m2m_beta=0.1)
    parts = [(part.stage, part.epochs) for part in (seed, warmup, translation)]
    assert parts == [("seed", 200), ("representation", 120), ("representation", 80)]
    # Of each translated image, 21 copies pass through one of the networks.
    translated = 4 * (step.passed - plain.passed) / 21
    assert translated in (1, 2, 3, 4)
    # 41 forward passes or their equivalent, and 3 for an image of a plain step, whose first layer is cheaper
    assert step.flops / plain.flops == pytest.approx(1 + translated / 4 * 41 / 3, rel=0.1)


def test_methods_with_equal_steps_share_a_measurement(method_step):
    parts = {
        name: method_step.parts_of(method_step.configuration(name, "resnet8"))
        for name in preset_names("method")
    }
    keys = {name: [part.key for part in each] for name, each in parts.items()}
    assert keys["ce"] == keys["ce-drs"] == keys["tau-norm"] == keys["crt"][:1]
    assert keys["mixup"] == keys["mislas"][:1] == keys["cmo"][1:]
    assert keys["m2m"][0] == keys["ce"][0] == keys["oltr"][0]
    others = ("ce", "focal", "focal-sigmoid", "cb-focal", "ce-drw", "ldam-drw", "mixup", "balanced-softmax")
    assert len({keys[name][0] for name in others}) == len(others)
    assert len({keys[name][-1] for name in ("crt", "lws", "mislas", "iccl")}) == 4
