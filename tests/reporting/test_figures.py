"""What stands in the figures: names that do not cover each other, ticks that are epochs and classes."""

from itertools import combinations, groupby
from types import SimpleNamespace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fasticcl.reporting import figures

METRICS = {"val/top1": 50.0, "val/many": 60.0, "val/medium": 50.0, "val/few": 40.0, "train/loss": 1.0}


def run_of(**phases):
    """What a run's files say, with so many epochs of each phase."""
    names = [phase for phase, epochs in phases.items() for _ in range(epochs)]
    return SimpleNamespace(epochs=[{"phase": phase, **METRICS} for phase in names])


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure.axes[0]


@pytest.mark.parametrize(
    "phases",
    [
        {"warmup": 1, "interpolative": 1, "rebalance": 1},
        {"warmup": 1, "interpolative": 2, "rebalance": 10},
        {"warmup": 1, "interpolative": 1, "rebalance": 100},
        {"warmup": 100, "interpolative": 1, "rebalance": 1},
        {"warmup": 100, "interpolative": 100, "rebalance": 10},
        {"warmup": 20, "interpolative": 30, "rebalance": 10},
    ],
    ids=str,
)
def test_names_of_phases_cover_neither_each_other_nor_the_title(phases):
    axes = drawn(figures.accuracy_curves(run_of(**phases)))
    names = [text for text in axes.texts if text.get_text() in phases]
    assert [name for name, _ in groupby(text.get_text() for text in names)] == [*phases]
    boxes = [text.get_window_extent() for text in (*names, axes._left_title)]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 200])
def test_ticks_are_whole_epochs(epochs):
    axes = drawn(figures.loss_curves(run_of(warmup=epochs)))
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_ticks_are_whole_classes():
    details = SimpleNamespace(
        train_counts=[5, 4, 3], weight_norms={"last": [1.0, 2.0, 3.0]}, centroid_norms=[1.0, 1.0, 1.0]
    )
    axes = drawn(figures.norms(details))
    assert all(tick == round(tick) for tick in axes.get_xticks())
