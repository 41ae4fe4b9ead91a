"""Features of training images: which images, stored or computed again, unreadable images, ranks."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fasticcl.engine.dataset import open_dataset
from fasticcl.engine.loaders import build_loader
from fasticcl.engine.stages import training_features
from fasticcl.engine.stages.training_features import TrainingFeatures
from fasticcl.errors import TrainingFailed
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine
from tests.support.damaged_shards import COUNTS, flip_bit, make_undecodable, write_noisy_shards


class MeanOfImages(torch.nn.Module):
    """An encoder whose features identify an image. It counts its calls."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return images.mean(dim=(2, 3))


@pytest.fixture
def shards(tmp_path):
    return write_noisy_shards(tmp_path / "shards")


def training_features_of(shards, rank=0, world_size=1, warnings=None, **settings):
    settings = {"data.image_size": 16, "data.eval_resize": 16, **settings}
    options = {"data": {"dir": shards}, "optim": {"batch_size": 4}, "engine": {"device": "cpu"}}
    for path, value in settings.items():
        section, _, key = path.partition(".")
        options[section][key] = value
    config = resolve("folder", options=options)
    machine, dataset = choose_machine(config.engine), open_dataset(config)
    warn = (lambda _: None) if warnings is None else warnings.append
    bad_samples = build_loader(config, dataset, machine, warn).bad_samples
    machine = replace(machine, ranks=SimpleNamespace(rank=rank, world_size=world_size))
    return TrainingFeatures(config, dataset, machine, MeanOfImages(), bad_samples), dataset


def joined(features):
    values, classes = zip(*features, strict=True)
    return torch.cat(values), torch.cat(classes)


def test_every_image_outside_the_holdout_has_features_once(shards):
    everything, _ = training_features_of(shards)
    values, classes = joined(everything)
    assert torch.bincount(classes).tolist() == COUNTS
    features, dataset = training_features_of(shards, **{"data.holdout": 0.3})
    kept = np.delete(np.arange(len(classes)), dataset.holdout_rows)
    assert len(kept) < len(classes)
    values_kept, classes_kept = joined(features)
    assert torch.equal(values_kept, values[kept])
    assert torch.equal(classes_kept, classes[kept])


def test_features_are_stored_if_they_are_small_and_otherwise_computed_again(shards, monkeypatch):
    features, _ = training_features_of(shards)
    first = joined(features)
    calls = features.encoder.calls
    second = joined(features)
    assert features.encoder.calls == calls == 8
    monkeypatch.setattr(training_features, "_STORED_BYTES", sum(COUNTS) * 3 * 4 - 1)
    large, _ = training_features_of(shards)
    third, fourth = joined(large), joined(large)
    assert large.encoder.calls == 16
    for each in (second, third, fourth):
        assert all(torch.equal(one, other) for one, other in zip(first, each, strict=True))


def test_ranks_divide_the_images_even_if_they_know_different_unreadable_ones(shards):
    ranks = [training_features_of(shards, rank, 3)[0] for rank in range(3)]
    ranks[0].bad_samples.merge([5])
    values, classes = joined([batch for features in ranks for batch in features])
    expected, labels = joined(training_features_of(shards)[0])
    assert torch.equal(classes, torch.cat([labels[:5], labels[6:]]))
    torch.testing.assert_close(values, torch.cat([expected[:5], expected[6:]]))


def test_unreadable_images_are_left_out_with_one_warning_each(shards):
    expected, labels = joined(training_features_of(shards)[0])
    flip_bit(shards, 1, 29)
    make_undecodable(shards, 14)
    warnings = []
    features, _ = training_features_of(shards, warnings=warnings)
    readable = np.delete(np.arange(sum(COUNTS)), [1, 14, 29])
    for _ in range(2):
        values, classes = joined(features)
        assert torch.equal(classes, labels[readable])
        assert torch.equal(values, expected[readable])
    assert features.bad_samples.rows == [1, 14, 29]
    assert len(warnings) == 3
    assert all("cannot be read and is left out" in line for line in warnings)


def test_too_many_unreadable_images_or_a_class_without_images_end_the_run(shards):
    flip_bit(shards, 1, 2, 27, 28)
    features, _ = training_features_of(shards, **{"data.max_bad_samples": 3})
    with pytest.raises(TrainingFailed, match=r"4 images cannot be read, more than data\.max_bad_samples"):
        joined(features)
    flip_bit(shards, 29)
    features, _ = training_features_of(shards)
    with pytest.raises(TrainingFailed, match="The class 'd' has no readable image left"):
        joined(features)
