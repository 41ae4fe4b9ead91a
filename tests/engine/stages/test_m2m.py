"""The stages of M2m: translated batches, and networks that the translation leaves unchanged."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fasticcl.data.batch import StreamBatch
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages import m2m
from fasticcl.engine.stages.m2m import MajorToMinor, SeedStage
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import learn
from fasticcl.method.translation import draw_replacements
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine
from tests.support.small_runs import equal

CLASSES, COUNTS = 4, np.array([9000, 3000, 900, 30])
ACCEPT_ALL = "method.m2m_confidence=0"
IN_PLACE = ("method.m2m_noise=0", "method.m2m_step_size=1e-9")


def configuration(*assignments, method="m2m"):
    small = ["method.encoder=resnet8", "engine.device=cpu", "optim.epochs=10"]
    return resolve("demo", method=method, assignments=[*small, *assignments])


def make_stage(*assignments, epoch=9):
    torch.manual_seed(0)
    config = configuration(*assignments)
    stage = MajorToMinor(config, CLASSES, choose_machine(config.engine), COUNTS)
    stage.begin_epoch(epoch)
    return stage


def batch(seed=0, size=16):
    """Return a batch of images with pixels in [0, 1], as the demo preset normalises them."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(size, 3, 8, 8, generator=generator) - 0.306) / 0.377
    y = torch.randint(0, CLASSES, (size,), generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    return StreamBatch(x, y, rng=np.random.default_rng(seed))


def replaced(given, result):
    return np.flatnonzero((given.x != result.x).any(dim=(1, 2, 3)).numpy())


def drawn_for(stage, given, seed=0):
    return draw_replacements(given.y.numpy(), COUNTS, stage.method.m2m_beta, np.random.default_rng(seed))


def test_drawn_images_are_replaced_and_all_others_kept():
    stage, given = make_stage(ACCEPT_ALL), batch()
    result, share = stage.translate(given)
    drawn = drawn_for(stage, given)
    assert len(drawn.slots) > 3
    assert replaced(given, result).tolist() == drawn.slots.tolist()
    assert share.item() == pytest.approx(len(drawn.slots) / 16)
    assert torch.equal(result.y, given.y)
    pixels = result.x[drawn.slots] * 0.377 + 0.306
    assert -1e-6 < pixels.min() <= pixels.max() < 1 + 1e-6
    assert result.x.is_contiguous(memory_format=torch.channels_last)


def test_a_replacement_starts_from_the_pixels_of_its_source():
    stage, given = make_stage(ACCEPT_ALL, *IN_PLACE), batch()
    result, _ = stage.translate(given)
    drawn = drawn_for(stage, given)
    assert torch.allclose(result.x[drawn.slots], given.x[drawn.sources], rtol=0, atol=1e-5)


def test_both_networks_see_normalised_images():
    stage, given, seen = make_stage(ACCEPT_ALL, *IN_PLACE), batch(), []
    for network in (stage.seed_network, stage.network):
        network.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0].detach())))
    stage.translate(given)
    sources = given.x[drawn_for(stage, given).sources]
    assert [module for module, _ in seen] == [stage.seed_network, stage.network] * 10 + [stage.seed_network]
    assert all(torch.allclose(images, sources, rtol=0, atol=1e-5) for _, images in seen)


def test_an_image_is_translated_from_its_class_to_that_of_its_slot(monkeypatch):
    stage, given, seen = make_stage(), batch(), []

    def record(pixels, source, target, *_):
        seen.append((source.tolist(), target.tolist()))
        return pixels, torch.zeros(len(pixels), dtype=torch.bool)

    monkeypatch.setattr(m2m, "translate", record)
    stage.translate(given)
    drawn = drawn_for(stage, given)
    assert seen == [(given.y[drawn.sources].tolist(), given.y[drawn.slots].tolist())]


def test_nothing_is_replaced_if_the_seed_network_is_not_confident():
    stage, given = make_stage("method.m2m_confidence=1"), batch()
    result, share = stage.translate(given)
    assert torch.equal(result.x, given.x)
    assert share == 0


def test_a_batch_without_replacements_is_kept():
    stage, given = make_stage(ACCEPT_ALL), batch()
    given = replace(given, y=torch.zeros_like(given.y))
    result, share = stage.translate(given)
    assert result is given
    assert share == 0


def test_the_translation_changes_neither_network():
    stage, given = make_stage(ACCEPT_ALL), batch()
    networks = stage.seed_network, stage.network
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    stage.translate(given)
    assert equal([network.state_dict() for network in networks], before)
    assert all(value.grad is None for network in networks for value in network.parameters())
    assert all(module.training for module in stage.network.modules())
    assert not any(module.training for module in stage.seed_network.modules())
    assert not stage.optimizer.state


@pytest.mark.parametrize("epoch", [6, 9])
def test_a_step_is_one_of_cross_entropy_on_the_translated_batch(epoch):
    stage, plain, given = make_stage(ACCEPT_ALL, epoch=epoch), make_stage(epoch=0), batch()
    translates = stage.phase(epoch) == "translation"
    assert translates == (epoch == 9)
    expected = stage.translate(given)[0] if translates else given
    plain.network.load_state_dict(stage.network.state_dict())
    set_lr(plain.optimizer, stage.lr(epoch))
    seed = copy.deepcopy(stage.seed_network.state_dict())
    losses, other = learn(stage, batch()), learn(plain, expected)
    assert losses["loss"] == other["loss"]
    assert losses.get("translated", 0) == (len(drawn_for(stage, given).slots) / 16 if translates else 0)
    assert equal({**stage.network.state_dict()}, {**plain.network.state_dict()})
    assert equal(stage.seed_network.state_dict(), seed)


class HalfOfTwo:
    """One of two ranks, which knows what the other one sends."""

    world_size = 2

    def __init__(self, rank, *gathered):
        self.rank, self.gathered = rank, iter(gathered)

    def all_gather(self, mine):
        everything = next(self.gathered)
        assert torch.equal(everything.chunk(2)[self.rank], mine)
        return everything


def test_two_ranks_translate_the_images_of_one():
    stage, given = make_stage(ACCEPT_ALL), batch()
    expected, share = stage.translate(given)
    halves, shares = [], []
    for rank in (0, 1):
        x, y = given.x.chunk(2)[rank], given.y.chunk(2)[rank]
        stage.machine = replace(stage.machine, ranks=HalfOfTwo(rank, given.x, given.y))
        half, part = stage.translate(StreamBatch(x, y, rng=np.random.default_rng(0)))
        halves.append(half.x)
        shares.append(part.item())
    assert torch.allclose(torch.cat(halves), expected.x, rtol=0, atol=1e-4)
    assert replaced(given, StreamBatch(torch.cat(halves), given.y)).tolist() == [*replaced(given, expected)]
    assert np.mean(shares) == pytest.approx(share.item())


def test_the_seed_stage_begins_as_a_run_of_cross_entropy():
    stage = make_stage("method.classifier=cosine", "method.class_loss=ldam", "method.class_weight_beta=0.9")
    torch.manual_seed(0)
    config = configuration(method="ce")
    expected = Representation(config, CLASSES, choose_machine(config.engine), COUNTS)
    seed = stage.seed_stage
    assert isinstance(seed, SeedStage)
    assert [seed.phase(epoch) for epoch in range(10)] == ["warmup"] * 10
    for each in (seed, expected):
        each.begin_epoch(9)
        learn(each, batch())
    assert equal({**seed.state_dict()}, {**expected.state_dict()})
    assert seed.lr(9) == expected.lr(9)


def test_the_state_contains_the_seed_network_and_frees_its_stage():
    stage, other = make_stage(), make_stage()
    stage.seed_network.classifier.bias.data += 1
    other.load_state_dict(copy.deepcopy(stage.state_dict()))
    assert equal(other.seed_network.state_dict(), stage.seed_network.state_dict())
    assert other.seed_stage is None
    assert not any(value.requires_grad for value in other.seed_network.parameters())
    assert not other.seed_network.training
