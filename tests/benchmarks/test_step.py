"""Losses of the plain training step in benchmarks/step.py, compared with the engine."""

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def step(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("step")


@pytest.mark.parametrize("preset", ["cifar100-lt", "imagenet-lt"])  # ω_u = 0 and ω_u > 0
def test_both_implementations_give_the_same_losses(step, preset):
    ours, plain = step.pair_of_steps(preset, "resnet8", classes=7)
    losses = torch.tensor([[ours(batch), plain(batch)] for batch in step.synthetic(6, 16, classes=7)])
    assert losses[:, 0].numpy() == pytest.approx(losses[:, 1].numpy(), rel=1e-3)
    assert losses[0, 0] != losses[1, 0]
