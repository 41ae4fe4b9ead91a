"""Given figures, the right part binds and the sentence says what to change."""

from dataclasses import replace

import pytest

from fasticcl.bench.advice import Situation, advise

ON_GPU = Situation(
    loader=5000,
    step=2500,
    whole=2450,
    gpu=True,
    workers=16,
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
def test_on_a_gpu_the_slower_part_binds_or_both_where_they_hinder_each_other(figures, binds):
    assert advise(replace(ON_GPU, **figures)).binds == binds


@pytest.mark.parametrize(
    ("figures", "binds"),
    [
        ({"loader": 400, "step": 30, "whole": 26}, "step"),
        ({"loader": 400, "step": 2000, "whole": 330}, "loader"),
        ({"loader": 400, "step": 400, "whole": 200}, "step"),  # they share the cores, as is expected
    ],
)
def test_on_a_cpu_the_slower_part_binds(figures, binds):
    assert advise(replace(ON_CPU, **figures)).binds == binds


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loader": 1500, "workers": 4}, "raise --workers to 16"),
        ({"loader": 1500}, "--short-side 256 (now 375 pixels)"),
        ({"loader": 1500}, "data.hw_decoder_load (now 0.65)"),
        ({"compiled": False}, "engine.compile=on"),
        ({"bfloat16": False}, "engine.precision=bfloat16"),
        ({}, "a larger --batch-size (now 256)"),
        ({"whole": 1200}, "48 % of the slower"),
    ],
)
def test_the_sentence_says_what_to_change(changes, said):
    sentence = advise(replace(ON_GPU, **changes)).sentence
    assert said in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("changes", "unsaid"),
    [
        ({"loader": 1500}, "--workers"),  # all cores are in use
        ({"loader": 1500, "short_side": 256}, "--short-side"),  # they are small enough
        ({}, "engine.compile"),
        ({"gpu": False, "loader": 1500}, "hw_decoder_load"),
    ],
)
def test_the_sentence_does_not_ask_for_what_is_done_already(changes, unsaid):
    assert unsaid not in advise(replace(ON_GPU, **changes)).sentence
