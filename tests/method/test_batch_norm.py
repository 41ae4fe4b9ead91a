"""Batch normalisation per stream and across ranks, and the replacement of BatchNorm2d modules."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fasticcl.method.batch_norm import SplitBatchNorm2d, SyncBatchNorm2d, replace_batch_norm, train_batch_norm
from fasticcl.method.network import Network
from tests.support.processes import tensors_on_ranks

WORLD_SIZE = 2


def images(size, side=32, seed=0, dtype=torch.float32):
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def separate_and_joint_passes(encoder, streams):
    """Return outputs, gradients and buffers of two separate passes and of one pass with ``split_bn``."""
    separate = Network(encoder, num_classes=5, embedding_dim=8).double()
    joint = Network(encoder, num_classes=5, embedding_dim=8, split_bn=True).double()
    joint.load_state_dict(copy.deepcopy(separate.state_dict()))
    joint.set_num_streams(streams)
    a, b = (images(4, side=16, seed=seed, dtype=torch.float64) for seed in (1, 2))
    b = 3 + 2 * b
    passes = [separate(a), separate(b)]
    logits = torch.cat([out.logits for out in passes])
    embedding = torch.cat([out.embedding for out in passes])
    results = []
    for network, outputs in ((separate, (logits, embedding)), (joint, joint(torch.cat([a, b])))):
        weights = torch.Generator().manual_seed(3)
        sum((out * torch.randn(out.shape, generator=weights)).sum() for out in outputs).backward()
        tensors = {"logits": outputs[0], "embedding": outputs[1]}
        tensors |= {f"gradient {name}": p.grad for name, p in network.named_parameters()}
        tensors |= {f"buffer {name}": buffer for name, buffer in network.named_buffers()}
        results.append({name: tensor.detach() for name, tensor in tensors.items()})
    return results


@pytest.mark.parametrize("encoder", ["resnet8", "resnet18"])
def test_one_pass_with_split_statistics_equals_two_separate_passes(encoder):
    separate, joint = separate_and_joint_passes(encoder, streams=2)
    assert separate.keys() == joint.keys()
    for name in separate:
        # Embeddings are float32, which limits the precision of the gradients.
        torch.testing.assert_close(joint[name], separate[name], rtol=1e-5, atol=1e-6, msg=f"{name} differs")


def test_one_pass_without_splitting_differs_from_two_separate_passes():
    separate, joint = separate_and_joint_passes("resnet8", streams=1)
    for name in ("logits", "embedding", "gradient encoder.conv.weight", "buffer encoder.bn.running_var"):
        assert (separate[name] - joint[name]).abs().max() > 1e-3


def test_set_num_streams_has_no_effect_without_split_bn():
    network, x = Network("resnet8", num_classes=5), images(4)
    before = network(x).logits
    network.set_num_streams(2)
    assert torch.equal(network(x).logits, before)


def test_split_and_plain_networks_have_the_same_state_dict_keys():
    plain, split = (Network("resnet8", num_classes=5, embedding_dim=8, split_bn=s) for s in (False, True))
    assert plain.state_dict().keys() == split.state_dict().keys()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_evaluation_ignores_streams(size):
    network, x = Network("resnet8", num_classes=5, embedding_dim=8, split_bn=True), images(size)
    network(images(8, seed=5))  # running statistics that differ from those of x
    network.eval()
    state = copy.deepcopy(network.state_dict())
    expected = network(x)
    network.set_num_streams(2)
    output = network(x)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.embedding, expected.embedding)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.fixture
def process_group():
    """A process group with one rank, in which SyncBatchNorm2d uses its own forward pass."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def batch_norms(replacement, **options):
    """Return a BatchNorm2d with random parameters and running statistics, and a replacement of its copy."""
    layer = nn.BatchNorm2d(5, **options)
    for tensor in [*layer.parameters(), layer.running_mean, layer.running_var]:
        if tensor is not None:
            nn.init.uniform_(tensor, 0.5, 1.5)
    return layer, replace_batch_norm(copy.deepcopy(layer), replacement)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
@pytest.mark.parametrize("replacement", [SplitBatchNorm2d, SyncBatchNorm2d])
def test_replacement_equals_batch_norm_for_all_options(replacement, momentum, track, affine):
    layer, replaced = batch_norms(replacement, momentum=momentum, track_running_stats=track, affine=affine)
    for training in (True, True, False):
        x = 3 * torch.randn(4, 5, 3, 3) + 1
        torch.testing.assert_close(replaced.train(training)(x), layer.train(training)(x))
        torch.testing.assert_close(replaced.state_dict(), layer.state_dict())


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(("momentum", "weights"), [(0.0, (0.0, 0.0)), (None, (0.5, 0.5)), (0.1, (0.09, 0.1))])
def test_sync_batch_norm_supports_momentum_0_and_none(momentum, weights):
    _, layer = batch_norms(SyncBatchNorm2d, momentum=momentum)
    start, batches = layer.running_mean.clone(), torch.randn(2, 4, 5, 3, 3)
    for x in batches:
        layer(x)
    means = batches.mean(dim=(1, 3, 4))
    expected = (1 - sum(weights)) * start + weights[0] * means[0] + weights[1] * means[1]
    torch.testing.assert_close(layer.running_mean, expected)


@pytest.mark.parametrize("replacement", [SplitBatchNorm2d, SyncBatchNorm2d])
def test_replacement_keeps_tensors_options_mode_and_parameter_order(replacement):
    network = Network("resnet8", num_classes=5).double().eval()
    network.encoder.bn.eps, network.encoder.bn.momentum = 1e-3, 0.2
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    keys = [*network.state_dict()]
    assert replace_batch_norm(network, replacement) is network
    assert [*network.state_dict()] == keys
    replaced = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert [*replaced] == [*tensors]
    assert all(replaced[name] is tensor for name, tensor in tensors.items())
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {type(layer) for layer in layers} == {replacement}
    assert not any(layer.training for layer in layers)
    assert (network.encoder.bn.eps, network.encoder.bn.momentum) == (1e-3, 0.2)


def test_split_batch_norm_leaves_the_random_initialisation_unchanged():
    networks = []
    for split in (False, True):
        torch.manual_seed(1)
        networks.append(Network("resnet8", num_classes=5, embedding_dim=8, split_bn=split).state_dict())
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())


def normalise(ranks):
    layer = nn.BatchNorm2d(5)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    layer = replace_batch_norm(layer, SyncBatchNorm2d)
    x = rank_input().chunk(WORLD_SIZE)[ranks.rank].clone().requires_grad_()
    out = layer(x)
    (out * normal(seed=1).chunk(WORLD_SIZE)[ranks.rank]).sum().backward()
    grads = {name: ranks.all_reduce(parameter.grad) for name, parameter in layer.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **grads, **dict(layer.named_buffers())}


def normal(seed=0):
    return torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(seed))


def rank_input():
    return normal() * 2 + 1


def test_sync_batch_norm_on_two_ranks_equals_batch_norm_of_the_global_batch(tmp_path):
    results = tensors_on_ranks(tmp_path / "log", WORLD_SIZE, normalise)
    layer = nn.BatchNorm2d(5)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    x = rank_input().requires_grad_()
    out = layer(x)
    (out * normal(seed=1)).sum().backward()
    for name, expected in {"out": out.detach(), "x": x.grad}.items():
        torch.testing.assert_close(torch.cat([r[name] for r in results]), expected, atol=1e-5, rtol=1e-5)
    expected = {name: parameter.grad for name, parameter in layer.named_parameters()}
    for name, value in (expected | dict(layer.named_buffers())).items():
        for result in results:
            assert torch.allclose(result[name], value, atol=1e-4), name


def test_only_batch_norm_is_set_to_training_mode():
    norms = [SplitBatchNorm2d(3), SyncBatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm1d(3)]
    others = [nn.Dropout(), nn.Conv2d(3, 3, 1), nn.LayerNorm(3)]
    module = nn.ModuleList([nn.Sequential(*norms), nn.Sequential(*others)])
    train_batch_norm(module)
    assert all(norm.training for norm in norms)
    assert not any(other.training for other in others)
