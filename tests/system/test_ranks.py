"""Collective operations and training steps of two ranks with the gloo backend."""

import torch
from torch import nn

from fasticcl.data.batch import Batch
from fasticcl.engine.stages.representation import Representation
from fasticcl.method.centroids import CentroidBank
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine
from fasticcl.system.ranks import Ranks
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
    parts = [tensors(3, 4, seed=rank) for rank in range(WORLD_SIZE)]
    for result in tensors_on_ranks(tmp_path / "log", WORLD_SIZE, exchange):
        assert torch.equal(result["gathered"], torch.cat(parts))
        assert torch.equal(result["sum"], parts[0] + parts[1])
        assert result["mean"].tolist() == [0.5] * 4
        assert result["maxima"].tolist() == [[0, 0], [1, 0], [0, 5], [0, 0]]
        assert result["broadcast"] == 40


def test_a_single_process_needs_no_communication():
    single = Ranks()
    assert single.delayed_max(15, 1) == [15, 1]
    assert single.flush_delayed_max() is None
    assert single.is_main


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
    stage.train_mode()
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
