"""Losses of the eager, compiled and CUDA graph modes on a GPU."""

import json

import pytest
import torch

import fasticcl
from fasticcl.engine.compile_trial import try_modes
from fasticcl.resolve import resolve
from fasticcl.system.machine import MODES, choose_machine

DEVICE = "gpu"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.mark.parametrize(
    "settings",
    [(), ("method.uniform_weight=0",), ("method.bn_mode=split",), ("method.warmup_epochs=90",)],
    ids=str,
)
def test_every_mode_computes_the_eager_loss(settings):
    small = ["method.encoder=resnet8", f"engine.device={DEVICE}", "optim.epochs=90", *settings]
    config = resolve("demo", assignments=small)
    trial = try_modes(config, 10, choose_machine(config.engine), (*MODES,))
    assert trial.failures == {}
    assert [*trial.milliseconds] == [*MODES]


@pytest.mark.parametrize("compiled", ["step", "cuda-graphs"])
@pytest.mark.parametrize("encoder", ["frozen", "tuned"])
def test_compiled_run_has_the_same_losses_as_an_eager_run(digit_shards, tmp_path, encoder, compiled):
    losses = {}
    for mode in ("off", compiled):
        settings = {"method.encoder": "resnet8", "method.warmup_epochs": 1, "engine.precision": "float32"}
        settings |= {"engine.compile": mode, "rebalance.encoder": encoder, "rebalance.epochs": 1}
        report = fasticcl.train(
            "demo", data=digit_shards, project=tmp_path, name=mode, device=DEVICE, epochs=3, set=settings
        )
        lines = (report.run / "metrics.jsonl").read_text().splitlines()
        losses[mode] = [json.loads(line)["train/loss"] for line in lines]
    assert losses[compiled] == pytest.approx(
        losses["off"], rel=0.05
    )  # rounding differences grow with the steps
