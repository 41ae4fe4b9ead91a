"""The bottleneck for given rates, and the settings that the advice recommends."""

from dataclasses import replace

import pytest

from fasticcl.bench.advice import Situation, advise

ON_GPU = Situation(
    loader=5000,
    step=2500,
    whole=2450,
    gpu=True,
    workers=13,
    cores=16,
    short_side=375,
    image_size=224,
    compiled=True,
    bfloat16=True,
    batch_size=256,
    hw_decoder_load=0.65,
)
ON_CPU = replace(ON_GPU, gpu=False, loader=400, step=30, whole=26, workers=2, cores=2)


@pytest.mark.parametrize(
    ("figures", "binds"),
    [
        ({"loader": 5000, "step": 2500, "whole": 2450}, "step"),
        ({"loader": 1500, "step": 2500, "whole": 1450}, "loader"),
        ({"loader": 2500, "step": 2500, "whole": 2400}, "step"),
        ({"loader": 3000, "step": 2500, "whole": 1500}, "both"),
        ({"loader": 2000, "step": 2500, "whole": 1000}, "both"),
    ],
)
def test_on_a_gpu_the_bottleneck_is_the_slower_part_or_contention(figures, binds):
    assert advise(replace(ON_GPU, **figures)).binds == binds


@pytest.mark.parametrize(
    ("figures", "binds"),
    [
        ({"loader": 400, "step": 30, "whole": 26}, "step"),
        ({"loader": 400, "step": 2000, "whole": 330}, "loader"),
        ({"loader": 400, "step": 400, "whole": 200}, "step"),  # loader and step share the cores
    ],
)
def test_on_a_cpu_the_bottleneck_is_the_slower_part(figures, binds):
    assert advise(replace(ON_CPU, **figures)).binds == binds


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"loader": 1500, "workers": 4}, "Raise --workers to 13"),
        ({"loader": 1500}, "--short-side 256 (now 375 pixels)"),
        ({"loader": 1500}, "data.hw_decoder_load (now 0.65)"),
        ({"compiled": False}, "engine.compile=on"),
        ({"bfloat16": False}, "engine.precision=bfloat16"),
        ({}, "a larger --batch-size (now 256)"),
        ({"whole": 1200}, "48 % of the slower"),
    ],
)
def test_the_advice_names_the_settings_to_change(changes, text):
    sentence = advise(replace(ON_GPU, **changes)).sentence
    assert text in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"loader": 1500}, "--workers"),  # already as many as useful
        ({"loader": 1500, "short_side": 256}, "--short-side"),  # already small
        ({}, "engine.compile"),
        ({"gpu": False, "loader": 1500}, "hw_decoder_load"),
    ],
)
def test_the_advice_omits_settings_that_are_already_optimal(changes, text):
    assert text not in advise(replace(ON_GPU, **changes)).sentence


@pytest.mark.parametrize(
    ("changes", "is_recommended"),
    [
        ({"bfloat16_step": 45.0}, True),
        ({"bfloat16_step": 31.0}, False),  # hardly faster
        ({"bfloat16_step": 20.0}, False),
        ({"bfloat16_step": None}, False),  # a CPU without instructions for it
        ({"bfloat16_step": 45.0, "loader": 20}, False),
    ],
)
def test_bfloat16_on_a_cpu_is_recommended_where_it_makes_the_bottleneck_faster(changes, is_recommended):
    sentence = advise(replace(ON_CPU, bfloat16=False, **changes)).sentence
    assert ("engine.precision=bfloat16 (step alone 45 images/s)" in sentence) == is_recommended
    assert ("bfloat16" in sentence) == is_recommended
