"""What ranks say to each other, and how they learn as one; on two processes, with gloo."""

import torch
from torch import nn

from fasticcl.data.batch import Batch
from fasticcl.engine.stages.representation import Representation
from fasticcl.method.batch_norm import SyncBatchNorm2d, replace_batch_norm
from fasticcl.method.centroids import CentroidBank
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine
from fasticcl.system.ranks import Ranks, join_process_group
from tests.support.processes import on_ranks

WORLD = 2


def _enter(work):
    # Shared memory, by which torch would send tensors, ends with the process.
    return {
        name: torch.as_tensor(value).numpy() for name, value in work(join_process_group(gpu=False)).items()
    }


def heard_on_ranks(work, folder):
    """What ``work(ranks)`` returns on each rank: tensors by name."""
    answers = on_ranks(folder / "log", WORLD, _enter, work)
    return [{name: torch.from_numpy(value) for name, value in answer.items()} for answer in answers]


def tensors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def talk(ranks):
    mine = tensors(3, 4, seed=ranks.rank)
    module = nn.BatchNorm2d(4)
    module.running_mean.fill_(float(ranks.rank))
    ranks.average_buffers(module)
    asked = [ranks.delayed_max(*numbers) for numbers in ((ranks.rank, 0), (0, 5 - ranks.rank), (0, 0))]
    return {
        "gathered": ranks.all_gather(mine),
        "sum": ranks.all_reduce(mine),
        "mean": module.running_mean,
        "batches": module.num_batches_tracked,
        "agreed": torch.tensor([*asked, ranks.flush_delayed_max()]),
        "said": int(ranks.broadcast_object(f"4{ranks.rank}")),
    }


def test_ranks_hear_the_same(tmp_path):
    parts = [tensors(3, 4, seed=rank) for rank in range(WORLD)]
    for heard in heard_on_ranks(talk, tmp_path):
        assert torch.equal(heard["gathered"], torch.cat(parts))
        assert torch.equal(heard["sum"], parts[0] + parts[1])
        assert heard["mean"].tolist() == [0.5] * 4
        assert heard["agreed"].tolist() == [[0, 0], [1, 0], [0, 5], [0, 0]]
        assert heard["said"] == 40


def test_a_process_on_its_own_is_answered_at_once():
    alone = Ranks()
    assert alone.delayed_max(15, 1) == [15, 1]
    assert alone.flush_delayed_max() is None
    assert alone.is_main


def normalise(ranks):
    layer = nn.BatchNorm2d(5)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    layer = replace_batch_norm(layer, SyncBatchNorm2d)
    assert type(layer) is SyncBatchNorm2d
    x = (tensors(8, 5, 3, 3) * 2 + 1).chunk(WORLD)[ranks.rank].clone().requires_grad_()
    out = layer(x)
    (out * tensors(8, 5, 3, 3, seed=1).chunk(WORLD)[ranks.rank]).sum().backward()
    grads = {name: ranks.all_reduce(parameter.grad) for name, parameter in layer.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **grads, **dict(layer.named_buffers())}


def test_synchronised_batch_norm_is_that_of_the_global_batch(tmp_path):
    found = heard_on_ranks(normalise, tmp_path)
    layer = nn.BatchNorm2d(5)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    x = (tensors(8, 5, 3, 3) * 2 + 1).requires_grad_()
    out = layer(x)
    (out * tensors(8, 5, 3, 3, seed=1)).sum().backward()
    for name, whole in {"out": out.detach(), "x": x.grad}.items():
        assert torch.allclose(torch.cat([each[name] for each in found]), whole, atol=1e-5)
    expected = {name: parameter.grad for name, parameter in layer.named_parameters()}
    for name, value in (expected | dict(layer.named_buffers())).items():
        for each in found:
            assert torch.allclose(each[name], value, atol=1e-4), name


def pair(rows):
    x_h, x_f = tensors(2, 8, 3, 16, 16)
    y_h, y_t = torch.arange(16).reshape(2, 8) % 5
    fields = (x_h, y_h, x_f, y_t, torch.full((8,), 0.3))
    return Batch(*(field[rows] for field in fields))


def learner(*assignments):
    torch.manual_seed(0)
    small = ["method.encoder=resnet8", "method.embedding_dim=8", "engine.device=cpu"]
    config = resolve("demo", assignments=[*small, *assignments])
    stage = Representation(config, 5, choose_machine(config.engine))
    stage.bank.centroids = nn.functional.normalize(tensors(5, 8), dim=1)
    stage.train_mode()
    return stage


def learn(ranks):
    stage = learner()
    share = slice(4 * ranks.rank, 4 * ranks.rank + 4)
    stage.losses(pair(share))["loss"].backward()
    grads = {name: parameter.grad for name, parameter in stage.network.named_parameters()}
    return {**grads, "centroids": stage.bank.centroids}


def test_two_forward_passes_have_the_mean_of_the_ranks_gradients(tmp_path):
    found = heard_on_ranks(learn, tmp_path)
    by_hand, embeddings = [], []
    for rank in range(WORLD):
        stage = learner()
        batch = pair(slice(4 * rank, 4 * rank + 4))
        stage.losses(batch)["loss"].backward()
        by_hand.append({name: parameter.grad for name, parameter in stage.network.named_parameters()})
        with torch.no_grad():
            embeddings.append(learner().network.train()(batch.x_h).embedding)
    for name in by_hand[0]:
        mean = (by_hand[0][name] + by_hand[1][name]) / 2
        for each in found:
            assert torch.allclose(each[name], mean, atol=1e-6), name
    bank = CentroidBank(5, 8)
    bank.centroids = nn.functional.normalize(tensors(5, 8), dim=1)
    bank.update(torch.cat(embeddings), pair(slice(8)).y_h)
    assert torch.equal(found[0]["centroids"], found[1]["centroids"])
    assert torch.allclose(found[0]["centroids"], bank.centroids, atol=1e-6)
