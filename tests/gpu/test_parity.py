"""The GPU against the CPU on the same plan; skipped, with the reason shown, where there is no GPU."""

import pytest
import torch

from fasticcl.config import Data
from fasticcl.data.loader import Loader
from fasticcl.data.plan import PHASES, Plan
from fasticcl.data.shards import Shards

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("jitter", [(0.0, 0.0, 0.0), (0.4, 0.4, 0.4)])
def test_the_graph_gives_the_same_images_on_both(photo_shards, phase, jitter):
    shards = Shards(photo_shards, "train")
    data = Data(dataset="folder", dir=photo_shards, color_jitter=jitter)
    plan = Plan(shards.index, shards.counts, data, batch_size=8, seed=0)
    one, two = (vars(next(Loader(shards, plan, gpu=gpu).batches(phase))) for gpu in (None, 0))
    for name, value in one.items():
        other = two[name].cpu()
        if value.ndim == 4:  # chroma is interpolated differently: a level or two, never a shift
            assert (value - other).abs().mean() < 0.03, name
        else:
            assert torch.equal(value, other), name
