"""Manifold mixup: states mixed after each block, batch statistics, drawn blocks."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from fasticcl.errors import UserError
from fasticcl.method.cifar_resnet import BasicBlock, CifarResNet
from fasticcl.method.manifold_mixup import Mixing, check_blocks, draw_block
from fasticcl.method.network import Network

BLOCKS = ("input", "stem", "stage1", "stage2", "stage3", "pool")
EPSILON, MOMENTUM = 1e-5, 0.1
every_block = pytest.mark.parametrize("block", BLOCKS)


def network(split_bn=False, dtype=torch.float64):
    """Return a network whose batch normalisation has random parameters and statistics."""
    torch.manual_seed(0)
    result = Network("resnet8", num_classes=5, embedding_dim=4, split_bn=split_bn)
    draw = torch.Generator().manual_seed(1)
    for name, value in result.encoder.state_dict().items():
        if "bn" in name and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=draw))
    return result.to(dtype)


def pair(size=6, dtype=torch.float64):
    draw = torch.Generator().manual_seed(2)
    x_h, x_t = torch.randn(2, size, 3, 8, 8, generator=draw, dtype=dtype)
    return x_h, x_t, torch.rand(size, generator=draw)


class Reference:
    """A CIFAR ResNet in NumPy, whose batch normalisation can use the statistics of parts of the batch."""

    def __init__(self, encoder: CifarResNet) -> None:
        self.state = {name: value.numpy().copy() for name, value in encoder.state_dict().items()}
        self.strides = [block.stride for block in encoder.blocks]

    def conv(self, x, name, stride):
        kernel = self.state[f"{name}.weight"]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("bihwkl,oikl->bohw", windows[:, :, ::stride, ::stride], kernel)

    def norm(self, x, name, parts):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        results = []
        for part in np.split(x, parts):
            mean, variance = part.mean((0, 2, 3)), part.var((0, 2, 3))
            count = part.size / part.shape[1]
            for key, value in (("mean", mean), ("var", variance * count / (count - 1))):
                old = self.state[f"{name}.running_{key}"]
                self.state[f"{name}.running_{key}"] = (1 - MOMENTUM) * old + MOMENTUM * value
            scaled = (part - mean[:, None, None]) / np.sqrt(variance + EPSILON)[:, None, None]
            results.append(weight[:, None, None] * scaled + bias[:, None, None])
        return np.concatenate(results)

    def block(self, x, name, parts):
        """Apply a block, with batch statistics of equal parts of the batch."""
        if name == "stem":
            return np.maximum(self.norm(self.conv(x, "conv", 1), "bn", parts), 0)
        if name == "pool":
            return x.mean((2, 3))
        index = int(name.removeprefix("stage")) - 1
        prefix, stride = f"blocks.{index}", self.strides[index]
        out = np.maximum(self.norm(self.conv(x, f"{prefix}.conv1", stride), f"{prefix}.bn1", parts), 0)
        out = self.norm(self.conv(out, f"{prefix}.conv2", 1), f"{prefix}.bn2", parts)
        extra = (out.shape[1] - x.shape[1]) // 2
        shortcut = np.pad(x[:, :, ::stride, ::stride], ((0, 0), (extra, extra), (0, 0), (0, 0)))
        return np.maximum(out + shortcut, 0)

    def features(self, x_h, x_t, lam, mixed_after, parts):
        """Return the features, with statistics of both streams (1) or of each (2) before they are mixed."""
        x = np.concatenate([x_h, x_t])
        for name in BLOCKS:
            x = x if name == "input" else self.block(x, name, parts)
            if name == mixed_after:
                (h, t), parts = np.split(x, 2), 1
                weight = lam.reshape(-1, *[1] * (h.ndim - 1))
                x = weight * h + (1 - weight) * t
        return x


@every_block
@pytest.mark.parametrize(("statistics", "parts"), [("separate", 2), ("split", 2), ("concat", 1)])
def test_features_and_statistics_are_those_of_the_definition(block, statistics, parts):
    ours, (x_h, x_t, lam) = network(statistics == "split").train(), pair()
    reference = Reference(ours.encoder)
    features = reference.features(x_h.numpy(), x_t.numpy(), lam.numpy(), block, parts)
    output = ours(x_h, Mixing(x_t, lam, block, statistics))
    expected = ours.classifier(torch.from_numpy(features))
    torch.testing.assert_close(output.logits, expected, rtol=1e-6, atol=1e-6)
    state = ours.encoder.state_dict()
    for name in (name for name in state if "running" in name):
        torch.testing.assert_close(state[name], torch.from_numpy(reference.state[name]), rtol=1e-6, atol=1e-9)
    # The next pass, of a plain batch, has statistics of the whole batch again.
    plain = copy.deepcopy(ours)(x_h).logits
    for module in ours.modules():
        assert getattr(module, "num_streams", 1) == 1
    torch.testing.assert_close(plain, ours(x_h).logits, rtol=0, atol=0)


@pytest.mark.parametrize("encoder", ["resnet8", "resnet18"])
def test_lambda_1_and_0_give_the_outputs_of_one_stream(encoder):
    torch.manual_seed(0)
    ours, (x_h, x_t, _) = Network(encoder, num_classes=5, embedding_dim=4).eval(), pair(2, torch.float32)
    with torch.no_grad():
        for lam, expected in ((1.0, ours(x_h)), (0.0, ours(x_t))):
            for block in BLOCKS:
                mixed = ours(x_h, Mixing(x_t, torch.full((2,), lam), block, "separate"))
                for one, other in zip(mixed, expected, strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_mixing_after_the_pooling_mixes_the_logits_of_a_linear_classifier():
    ours, (x_h, x_t, lam) = network().eval(), pair()
    mixed = ours(x_h, Mixing(x_t, lam, "pool", "separate")).logits
    expected = lam[:, None] * ours(x_h).logits + (1 - lam[:, None]) * ours(x_t).logits
    torch.testing.assert_close(mixed, expected)


@every_block
def test_each_row_has_its_own_lambda_and_partner(block):
    """In evaluation mode, a row of the output depends on this row of both streams and of λ only."""
    ours, (x_h, x_t, lam) = network().eval(), pair()
    reference = ours(x_h, Mixing(x_t, lam, block, "concat")).logits
    for changed in (0, 1, 2):
        inputs = [x_h.clone(), x_t.clone(), lam.clone()]
        inputs[changed][3] = 0.5 * inputs[changed][3] + 0.1
        logits = ours(inputs[0], Mixing(*inputs[1:], block, "concat")).logits
        assert (~torch.isclose(logits, reference, rtol=1e-9)).any(dim=1).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("block", ["input", "stage1"])
def test_gradients_reach_both_streams_with_their_weights(block):
    ours, (x_h, x_t, lam) = network().eval(), pair()
    lam = lam * torch.tensor([1, 0, 1, 1, 1, 1])  # the second row is x_t alone
    x_h.requires_grad_(), x_t.requires_grad_()
    ours(x_h, Mixing(x_t, lam, block, "separate")).logits.sum().backward()
    assert (x_h.grad.abs().sum((1, 2, 3)) > 0).tolist() == [True, False, True, True, True, True]
    assert (x_t.grad.abs().sum((1, 2, 3)) > 0).all()


@every_block
def test_bfloat16_states_stay_bfloat16(block):
    """Otherwise, the rest of the encoder would compute its shortcuts in float32."""
    ours, (x_h, x_t, lam) = network(dtype=torch.float32), pair(dtype=torch.float32)
    types = []

    def record(module, _, output):
        types.append((type(module), output.dtype))

    for module in ours.encoder.modules():
        module.register_forward_hook(record)
    with torch.autocast("cpu", torch.bfloat16):
        ours(x_h)
        plain = {*types}
        types.clear()
        ours(x_h, Mixing(x_t, lam, block, "separate"))
    stages = {each for each in types if each[0] in (BasicBlock, torch.nn.Conv2d)}
    assert stages <= plain
    assert {dtype for _, dtype in stages} == {torch.bfloat16}


def test_blocks_are_drawn_uniformly_and_independently():
    rng, names = np.random.default_rng(0), ("input", "stage1", "stage2")
    drawn = [draw_block(names, rng) for _ in range(3000)]
    counts, pairs = Counter(drawn), Counter(zip(drawn[::2], drawn[1::2], strict=True))
    assert counts.keys() == {*names}
    assert all(abs(count - 1000) < 80 for count in counts.values())  # 3 standard deviations
    assert len(pairs) == 9
    assert all(abs(count - 1500 / 9) < 40 for count in pairs.values())
    assert draw_block(("pool",), rng) == "pool"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("stage4", "the encoder has no block 'stage4'. Did you mean stage3?"),
        ("layer", "the encoder has no block 'layer'. Known: input, stem, stage1, stage2, stage3, pool."),
        ("0", "the encoder has no block '0'. Known: input"),
    ],
)
def test_an_unknown_block_is_an_error_with_the_nearest_block(name, sentence):
    encoder = Network("resnet8", num_classes=5).encoder
    check_blocks(encoder, BLOCKS)
    with pytest.raises(UserError) as error:
        check_blocks(encoder, ("input", name))
    assert f"method.mixup_after: {sentence}" in str(error.value)
