"""Epochs of each phase, which the banner lists."""

import pytest

from fasticcl.engine.banner import phase_epochs
from fasticcl.resolve import resolve


@pytest.mark.parametrize(
    ("assignments", "epochs"),
    [
        (["method.warmup_epochs=2"], {"warmup": 2, "interpolative": 3, "rebalance": 4}),
        (["method.warmup_epochs=0"], {"interpolative": 5, "rebalance": 4}),
        (["method.warmup_epochs=5", "rebalance.epochs=0"], {"warmup": 5}),
    ],
)
def test_phases_are_counted_in_order_and_absent_ones_left_out(assignments, epochs):
    config = resolve("demo", assignments=["optim.epochs=5", "rebalance.epochs=4", *assignments])
    assert [*phase_epochs(config).items()] == [*epochs.items()]
