"""Collective operations and training steps of two or three ranks with the gloo backend."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fasticcl.data.batch import Batch
from fasticcl.engine.stages.representation import Representation
from fasticcl.errors import Stopped, TrainingFailed
from fasticcl.method.centroids import CentroidBank
from fasticcl.resolve import resolve
from fasticcl.system import ranks as ranks_module
from fasticcl.system.machine import choose_machine
from fasticcl.system.ranks import Ranks, join_process_group
from tests.support.processes import tensors_on_ranks

WORLD_SIZE = 2


def tensors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exchange(ranks):
    mine = tensors(3, 4, seed=ranks.rank)
    module = nn.BatchNorm2d(4)
    module.running_mean.fill_(float(ranks.rank))
    ranks.average_buffers(module)
    maxima = [ranks.delayed_max(*numbers) for numbers in ((ranks.rank, 0), (0, 5 - ranks.rank), (0, 0))]
    return {
        "gathered": ranks.all_gather(mine),
        "sum": ranks.all_reduce(mine),
        "mean": module.running_mean,
        "batches": module.num_batches_tracked,
        "maxima": torch.tensor([*maxima, ranks.flush_delayed_max()]),
        "broadcast": int(ranks.broadcast_object(f"4{ranks.rank}")),
    }


def test_collective_operations_give_all_ranks_the_same_results(tmp_path):
    parts = [tensors(3, 4, seed=rank) for rank in range(3)]
    for result in tensors_on_ranks(tmp_path / "log", 3, exchange):
        assert torch.equal(result["gathered"], torch.cat(parts))
        torch.testing.assert_close(result["sum"], torch.stack(parts).sum(dim=0))
        assert result["mean"].tolist() == [1.0] * 4
        assert result["maxima"].tolist() == [[0, 0], [2, 0], [0, 5], [0, 0]]
        assert result["broadcast"] == 40


def test_a_single_process_needs_no_communication():
    single = Ranks()
    assert single.delayed_max(15, 1) == [15, 1]
    assert single.flush_delayed_max() is None
    assert single.is_main


def test_buffers_of_a_single_process_are_not_searched(monkeypatch):
    monkeypatch.setattr(nn.Module, "modules", lambda _: pytest.fail("searched"))
    Ranks().average_buffers(nn.BatchNorm2d(4))


class FeatureMean(nn.Module):
    averaged_buffers = ("mean",)

    def __init__(self, rank):
        super().__init__()
        self.register_buffer("mean", torch.full((2, 3), float(rank)))
        self.register_buffer("scale", torch.tensor(float(rank)))


def average_while_buffers_change(ranks):
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval())
    means = nn.ModuleList([FeatureMean(ranks.rank), FeatureMean(ranks.rank).eval()])
    ranks.average_buffers(means)
    module[0].register_buffer("scale", torch.tensor(float(ranks.rank)))
    for step in (0.0, 4.0):
        for norm in module[1:]:
            norm.running_var = torch.full((2,), step + ranks.rank)  # a new tensor
        ranks.average_buffers(module)
    named = {"mean": means[0].mean, "frozen mean": means[1].mean, "constant": means[0].scale}
    tensors = {"trained": module[1].running_var, "frozen": module[2].running_var, "scale": module[0].scale}
    return named | tensors


def test_current_statistics_of_trained_modules_are_averaged(tmp_path):
    results = tensors_on_ranks(tmp_path / "log", WORLD_SIZE, average_while_buffers_change)
    for rank, result in enumerate(results):
        assert result["trained"].tolist() == [4.5] * 2
        assert result["frozen"].tolist() == [4.0 + rank] * 2
        assert result["scale"] == result["constant"] == rank
        assert (result["mean"] == 0.5).all()
        assert (result["frozen mean"] == rank).all()


@pytest.fixture
def process_group(monkeypatch):
    """Record how a process group is initialised and destroyed, without one."""
    seen = SimpleNamespace(options={}, at_exit=[], destroyed=0)

    def destroy():
        seen.destroyed += 1

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    dist = ranks_module.dist
    joined = iter([False])
    monkeypatch.setattr(dist, "is_initialized", lambda: next(joined, True))
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(None, 1, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda name, **o: seen.options.update(o, backend=name))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    monkeypatch.setattr(dist, "destroy_process_group", destroy)
    monkeypatch.setattr(ranks_module, "_fresh_store", lambda store, *_: store)
    monkeypatch.setattr(ranks_module, "_ended_together", False)
    monkeypatch.setattr(
        ranks_module.atexit, "register", lambda call, **o: seen.at_exit.append(lambda: call(**o))
    )
    return seen


@pytest.mark.parametrize(
    ("gpu", "backend", "device"), [(None, "gloo", None), (1, "nccl", torch.device("cuda", 1))]
)
def test_each_rank_joins_with_its_own_gpu(process_group, gpu, backend, device):
    assert join_process_group(gpu).rank == 1
    assert process_group.options["backend"] == backend
    assert process_group.options["device_id"] == device


@pytest.mark.parametrize(
    ("outcome", "gpu", "destroyed"),
    [
        (None, 0, 1),
        (Stopped(15, "fasticcl train"), 0, 1),
        (TrainingFailed("a loss is not finite"), 0, 0),
        (KeyboardInterrupt(), 0, 0),
        (TrainingFailed("a loss is not finite"), None, 1),
    ],
    ids=str,
)
def test_nccl_is_shut_down_only_if_all_ranks_ended_together(process_group, outcome, gpu, destroyed):
    ranks = join_process_group(gpu)
    with ranks.report_lost_rank():
        pass  # an earlier block that succeeded
    with suppress(BaseException), ranks.report_lost_rank():
        if outcome:
            raise outcome
    assert process_group.destroyed == 0
    process_group.at_exit[0]()
    assert process_group.destroyed == destroyed


def mixed_batch(rows):
    x_h, x_f = tensors(2, 8, 3, 16, 16)
    y_h, y_t = torch.arange(16).reshape(2, 8) % 5
    fields = (x_h, y_h, x_f, y_t, torch.full((8,), 0.3))
    return Batch(*(field[rows] for field in fields))


def make_stage(*assignments):
    torch.manual_seed(0)
    small = ["method.encoder=resnet8", "method.embedding_dim=8", "engine.device=cpu"]
    config = resolve("demo", assignments=[*small, *assignments])
    stage = Representation(config, 5, choose_machine(config.engine))
    stage.bank.centroids = nn.functional.normalize(tensors(5, 8), dim=1)
    stage.begin_epoch(0)
    return stage


def first_step(ranks):
    stage = make_stage()
    share = slice(4 * ranks.rank, 4 * ranks.rank + 4)
    stage.losses(mixed_batch(share))["loss"].backward()
    grads = {name: parameter.grad for name, parameter in stage.network.named_parameters()}
    return {**grads, "centroids": stage.bank.centroids}


def test_gradients_are_the_mean_over_the_ranks_after_two_forward_passes(tmp_path):
    results = tensors_on_ranks(tmp_path / "log", WORLD_SIZE, first_step)
    expected_grads, embeddings = [], []
    for rank in range(WORLD_SIZE):
        stage = make_stage()
        batch = mixed_batch(slice(4 * rank, 4 * rank + 4))
        stage.losses(batch)["loss"].backward()
        expected_grads.append({name: parameter.grad for name, parameter in stage.network.named_parameters()})
        with torch.no_grad():
            embeddings.append(make_stage().network.train()(batch.x_h).embedding)
    for name in expected_grads[0]:
        mean = (expected_grads[0][name] + expected_grads[1][name]) / 2
        for result in results:
            assert torch.allclose(result[name], mean, atol=1e-6), name
    bank = CentroidBank(5, 8)
    bank.centroids = nn.functional.normalize(tensors(5, 8), dim=1)
    bank.update(torch.cat(embeddings), mixed_batch(slice(8)).y_h)
    assert torch.equal(results[0]["centroids"], results[1]["centroids"])
    assert torch.allclose(results[0]["centroids"], bank.centroids, atol=1e-6)
