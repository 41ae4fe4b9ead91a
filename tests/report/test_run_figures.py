"""Figures of a run: labels, ticks and curves."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from fasticcl.report import run_figures
from fasticcl.report.comparison import metric_curves
from fasticcl.report.plotting import to_png
from fasticcl.report.run_groups import RunGroup

PHASES = ("warmup", "interpolative", "rebalance")
LENGTHS = [(1,), (1, 1), (1, 1, 1), (5, 2, 1), (1, 198, 1), (100, 95, 5), (100, 1, 1), (1, 1, 198)]
CURVES = [run_figures.accuracy_curves, run_figures.loss_curves, run_figures.throughput_curves]


def with_phases(history, lengths):
    """Return a history with the given number of epochs in each phase."""
    of_phase = {record["phase"]: record for record in history.epochs}
    epochs = [of_phase[name] for name, count in zip(PHASES, lengths, strict=False) for _ in range(count)]
    return dataclasses.replace(history, epochs=epochs)


def with_class_sizes(analysis, sizes):
    """Return an analysis with one class for each of the given numbers of training images."""
    count = len(sizes)
    changes = {
        "train_counts": sizes,
        "seen": [2] * count,
        "right": {name: [1] * count for name in analysis.right},
        "weight_norms": {name: [*range(1, count + 1)] for name in analysis.weight_norms},
        "centroid_norms": [1.0] * count,
    }
    return analysis.model_copy(update=changes)


def tick_labels(figure):
    """Return the visible labels of the x-axis."""
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    low, high = sorted(axis.get_view_interval())
    visible = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [tick.label1.get_text() for tick in visible]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("plot", CURVES)
def test_phase_labels_do_not_overlap_each_other_axes_or_title(history, plot, lengths):
    figure = plot(with_phases(history, lengths))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [*PHASES[: len(lengths)]]
    assert all(right.x0 - left.x1 >= 3 for left, right in itertools.pairwise(boxes))
    assert boxes[0].x0 >= axes.bbox.x0 - 1
    assert boxes[-1].x1 <= axes.bbox.x1 + 1
    title = axes._left_title.get_window_extent()
    assert all(axes.bbox.y1 <= box.y0 < box.y1 <= title.y0 for box in boxes)


def test_the_label_of_a_long_phase_is_at_its_middle(history):
    figure = run_figures.accuracy_curves(with_phases(history, (40, 60, 100)))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for text, middle in zip(axes.texts, (20.5, 70.5, 150.5), strict=True):
        box = text.get_window_extent()
        x, _ = axes.transData.inverted().transform(((box.x0 + box.x1) / 2, 0))
        assert x == pytest.approx(middle, abs=1)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("plot", CURVES)
def test_epoch_ticks_are_whole_numbers(history, plot, lengths):
    labels = tick_labels(plot(with_phases(history, lengths)))
    assert labels
    assert all(label.isdecimal() and 1 <= int(label) <= sum(lengths) for label in labels)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_epoch_ticks_of_a_comparison_are_whole_numbers(history, lengths):
    group = RunGroup("one", [with_phases(history, lengths)])
    labels = tick_labels(metric_curves([group], "val/top1", "one"))
    assert labels
    assert all(map(str.isdecimal, labels))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
def test_class_ranks_are_whole_numbers_from_1(analysis, count):
    figure = run_figures.class_norms(with_class_sizes(analysis, [*range(count, 0, -1)]))
    labels = tick_labels(figure)
    assert labels
    assert all(map(str.isdecimal, labels))
    assert figure.axes[0].lines[0].get_xdata().tolist() == [*range(1, count + 1)]


@pytest.mark.parametrize("sizes", [[60, 30, 22], [142, 10, 2], [5000, 50, 1], [7, 7, 7]])
def test_class_sizes_are_plain_numbers(analysis, sizes):
    labels = tick_labels(run_figures.per_class_accuracy(with_class_sizes(analysis, sizes)))
    assert labels
    assert all(label.replace(",", "").isdecimal() for label in labels)


def test_a_single_epoch_is_visible(history):
    one = dataclasses.replace(history, epochs=[history.epochs[-1]])
    with Image.open(io.BytesIO(to_png(run_figures.accuracy_curves(one)))) as image:
        pixels = np.asarray(image.convert("RGB"))
    above_the_legend = pixels[: len(pixels) * 3 // 4].reshape(-1, 3).tolist()
    assert above_the_legend.count([0xD5, 0x5E, 0x00]) > 20, "the colour of few"


def test_curves_at_0_and_100_percent_are_fully_visible(history):
    for plot in (run_figures.accuracy_curves, run_figures.throughput_curves):
        low, high = plot(history).axes[-1].get_ylim()
        assert low < 0
        assert high > 100


def test_the_running_mean_is_over_neighbours_in_size_and_skips_missing_values():
    sizes = np.array([5, 1, 3, 4, 2, 6])
    values = np.array([50.0, 10.0, 30.0, np.nan, 20.0, 60.0])
    x, y = run_figures._running_mean(sizes, values)
    assert x.tolist() == [1, 2, 3, 5, 6]
    assert y.tolist() == [10, 20, 30, 50, 60]
    many = np.arange(150)
    x, y = run_figures._running_mean(many, many * 2.0)
    assert len(x) == 150 - 10 + 1
    assert y == pytest.approx(2 * x)
    assert x[0] == pytest.approx(np.mean(many[:10]))


def test_caption_of_the_losses_names_the_class_loss(history):
    method = history.config.method.model_copy(update={"class_loss": "ldam"})
    ldam = dataclasses.replace(history, config=history.config.model_copy(update={"method": method}))
    losses = [[*itertools.islice(run_figures.run_figures(run, None), 2)][1] for run in (history, ldam)]
    assert [caption for _, _, caption in losses] == [
        "Training losses, averaged over each epoch.",
        "Training losses, averaged over each epoch. In the representation stage, ce is the class loss ldam.",
    ]


def test_a_seed_stage_has_its_own_label_and_is_left_out_of_comparisons(history):
    first = history.epochs[0]
    epochs = [{**first, "stage": "seed", "val/top1": 1.0}, first, *history.epochs]
    with_seed = dataclasses.replace(history, epochs=epochs)
    labels = [text.get_text() for text in run_figures.accuracy_curves(with_seed).axes[0].texts]
    assert labels == ["seed network", *PHASES]
    (curve,) = metric_curves([RunGroup("one", [with_seed])], "val/top1", "one").axes[0].lines
    assert curve.get_ydata().tolist() == [record["val/top1"] for record in epochs[1:]]
