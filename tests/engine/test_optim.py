"""Learning-rate schedules and the optimizer."""

import pytest
import torch

from fasticcl.config import Optim
from fasticcl.engine.optim import build_optimizer, cosine_factor, load_momenta, representation_lr, set_lr

CIFAR = Optim(
    epochs=200,
    lr=0.1,
    schedule="step",
    milestones=(0.6, 0.8),
    decay=0.01,
    warmup_epochs=5,
    warmup_start=1 / 3,
)


def schedule(optim):
    return [representation_lr(epoch, optim) for epoch in range(optim.epochs)]


def torch_cosine(epochs, lr):
    """The epochs + 1 learning rates of torch's own scheduler."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    rates = []
    for _ in range(epochs + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_cifar_schedule_is_the_papers():
    warmup = [0.1 * share for share in (7 / 15, 9 / 15, 11 / 15, 13 / 15, 1)]
    expected = warmup + [0.1] * 115 + [1e-3] * 40 + [1e-5] * 40
    assert schedule(CIFAR) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epochs", [100, 200, 300])
def test_rounding_errors_do_not_shift_milestones(epochs):
    assert 0.07 * epochs > 7 * epochs // 100  # 0.07 · 100 is 7.000000000000001
    rates = schedule(Optim(epochs=epochs, schedule="step", milestones=(0.07,), decay=0.5, lr=1.0))
    assert rates.index(0.5) == 7 * epochs // 100


@pytest.mark.parametrize("epochs", [1, 7, 90, 200])
def test_cosine_equals_torchs_scheduler(epochs):
    optim = Optim(epochs=epochs, lr=0.2, schedule="cosine")
    expected = torch_cosine(epochs, 0.2)
    assert schedule(optim) == pytest.approx(expected[:-1], rel=1e-9)
    assert 0.2 * cosine_factor(epochs, epochs) == pytest.approx(expected[-1], abs=1e-15) == 0


def test_warmup_scales_only_its_epochs():
    rates = schedule(Optim(epochs=90, lr=0.2, warmup_epochs=3, warmup_start=0.1))
    plain = torch_cosine(90, 0.2)[:-1]
    factors = [0.4, 0.7, 1.0] + [1.0] * 87
    assert rates == pytest.approx([f * p for f, p in zip(factors, plain, strict=True)], rel=1e-9)


def test_no_warmup_starts_at_the_full_rate():
    assert representation_lr(0, Optim(lr=0.3, warmup_epochs=0)) == 0.3


@pytest.mark.parametrize(("override", "expected"), [(None, 2e-4), (0.0, 0.0), (0.3, 0.3)])
def test_the_optimizer_has_the_configured_settings(override, expected):
    optim = Optim(lr=0.7, momentum=0.8, nesterov=True, weight_decay=2e-4)
    optimizer = build_optimizer(iter([torch.nn.Parameter(torch.zeros(1))]), optim, override)
    (group,) = optimizer.param_groups
    settings = {name: group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")}
    assert settings == {"lr": 0.7, "momentum": 0.8, "nesterov": True, "weight_decay": expected}


def test_some_parameters_have_no_weight_decay():
    weight, bias = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer([bias, weight], CIFAR, exceptions=[{"params": [bias], "weight_decay": 0.0}])
    for parameter in (weight, bias):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert bias.item() == 1
    assert weight.tolist() == pytest.approx([1 - CIFAR.lr * CIFAR.weight_decay] * 2)


def test_set_lr_reaches_every_parameter_group():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = torch.optim.SGD(groups)
    set_lr(optimizer, 0.05)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]


def test_a_group_keeps_its_share_of_the_learning_rate():
    one, two = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = build_optimizer([one, two], CIFAR, exceptions=[{"params": [one], "lr_factor": 0.2}])
    for lr in (0.5, 0.25):
        set_lr(optimizer, lr)
        assert [group["lr"] for group in optimizer.param_groups] == [lr, 0.2 * lr]
    load_momenta(optimizer, build_optimizer([one, two], CIFAR).state_dict())
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    (only,) = build_optimizer([one], CIFAR, exceptions=[{"params": [one], "lr_factor": 0.2}]).param_groups
    assert only["lr_factor"] == 0.2


def test_momenta_of_a_cpu_are_restored_into_a_fused_optimizer():
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    saved, restored = (build_optimizer([weight], CIFAR) for weight in weights)
    restored.param_groups[0]["fused"] = True  # as on a GPU
    weights[0].grad = torch.full((3,), 2.0)
    saved.step()
    load_momenta(restored, saved.state_dict())
    assert restored.param_groups[0]["fused"] is True
    buffer = restored.state[weights[1]]["momentum_buffer"]
    assert torch.equal(buffer, saved.state[weights[0]]["momentum_buffer"])
    assert buffer.any()
