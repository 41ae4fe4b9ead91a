"""Batches of the loader, and synthetic ones of the same types."""

import pytest
import torch

from fasticcl.data.batch import Batch, StreamBatch, synthetic_batch, tensors_of
from fasticcl.data.loader import Loader
from fasticcl.data.plan import PHASES
from tests.support.planned_images import PHOTOS, open_plan

CPU = torch.device("cpu")


def fields(batch):
    return {
        name: (value.shape, value.dtype, value.is_contiguous(memory_format=torch.channels_last))
        if value.ndim == 4
        else (value.shape, value.dtype)
        for name, value in tensors_of(batch).items()
    }


@pytest.mark.parametrize("phase", PHASES)
def test_synthetic_batch_has_the_fields_of_the_loaders(photo_shards, phase):
    shards, _, plan = open_plan(photo_shards, **PHOTOS)
    batch = next(Loader(shards, plan).batches(phase))
    synthetic = synthetic_batch(phase, 8, 96, 3, CPU)
    image, label = (torch.Size([8, 3, 96, 96]), torch.float32, True), (torch.Size([8]), torch.int64)
    if phase == "interpolative":
        lam = (torch.Size([8]), torch.float32)
        expected = {"x_h": image, "y_h": label, "x_f": image, "y_t": label, "lam": lam}
    else:
        expected = {"x": image, "y": label}
    assert type(batch) is type(synthetic) is (Batch if phase == "interpolative" else StreamBatch)
    assert fields(batch) == fields(synthetic) == expected
    assert batch.images == synthetic.images == (16 if phase == "interpolative" else 8)


@pytest.mark.parametrize("phase", PHASES)
def test_synthetic_batches_are_reproducible(phase):
    one, other = (tensors_of(synthetic_batch(phase, 6, 8, 5, CPU)) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_synthetic_classes_and_mixing_factors_are_in_range():
    batch = synthetic_batch("interpolative", 200, 4, 5, CPU)
    for labels in (batch.y_h, batch.y_t):
        assert labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert not torch.equal(batch.y_h, batch.y_t)
    assert 0 <= batch.lam[0] <= 1
    assert (batch.lam == batch.lam[0]).all()
