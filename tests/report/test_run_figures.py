import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from fasticcl.report import run_figures, run_sections
from fasticcl.report.class_analysis import ClassAnalysis
from fasticcl.report.comparison import metric_curves
from fasticcl.report.plotting import to_png
from fasticcl.report.run_groups import RunGroup
from fasticcl.report.run_history import read_history

PHASES = ("warmup", "interpolative", "rebalance")
LENGTHS = [(1,), (1, 1), (1, 1, 1), (5, 2, 1), (1, 198, 1), (100, 95, 5), (100, 1, 1), (1, 1, 198)]
CURVES = [run_figures.accuracy_curves, run_figures.loss_curves, run_figures.throughput_curves]


@pytest.fixture(scope="module")
def record(reported):
    return read_history(reported)


@pytest.fixture(scope="module")
def details(reported):
    return ClassAnalysis.model_validate(json.loads((reported / "report.json").read_text())["details"])


def of_lengths(record, lengths):
    """A record of phases with so many epochs each."""
    of_phase = {each["phase"]: each for each in record.epochs}
    epochs = [of_phase[name] for name, count in zip(PHASES, lengths, strict=False) for _ in range(count)]
    return dataclasses.replace(record, epochs=epochs)


def of_classes(details, sizes):
    """Details of as many classes as there are sizes."""
    count = len(sizes)
    cut = {name: [1] * count for name in details.right}
    norms = {name: [*range(1, count + 1)] for name in details.weight_norms}
    changes = {"train_counts": sizes, "seen": [2] * count, "right": cut, "weight_norms": norms}
    return details.model_copy(update=changes | {"centroid_norms": [1.0] * count})


def ticks(figure):
    """The labels on the horizontal axis that are seen."""
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    low, high = sorted(axis.get_view_interval())
    drawn = [each for each in axis.get_major_ticks() if low <= each.get_loc() <= high]
    return [each.label1.get_text() for each in drawn]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("draw", CURVES)
def test_names_of_phases_lie_apart_between_axes_and_title(record, draw, lengths):
    figure = draw(of_lengths(record, lengths))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [*PHASES[: len(lengths)]]
    assert all(right.x0 - left.x1 >= 3 for left, right in itertools.pairwise(boxes))
    assert boxes[0].x0 >= axes.bbox.x0 - 1
    assert boxes[-1].x1 <= axes.bbox.x1 + 1
    title = axes._left_title.get_window_extent()
    assert all(axes.bbox.y1 <= box.y0 < box.y1 <= title.y0 for box in boxes)


def test_the_name_of_a_long_phase_is_at_its_middle(record):
    figure = run_figures.accuracy_curves(of_lengths(record, (40, 60, 100)))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for text, middle in zip(axes.texts, (20.5, 70.5, 150.5), strict=True):
        box = text.get_window_extent()
        place, _ = axes.transData.inverted().transform(((box.x0 + box.x1) / 2, 0))
        assert place == pytest.approx(middle, abs=1)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("draw", CURVES)
def test_epochs_are_whole_numbers(record, draw, lengths):
    labels = ticks(draw(of_lengths(record, lengths)))
    assert labels
    assert all(label.isdecimal() and 1 <= int(label) <= sum(lengths) for label in labels)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_epochs_of_a_comparison_are_whole_numbers(record, lengths):
    runs = [of_lengths(record, lengths)]
    labels = ticks(metric_curves([RunGroup("one", runs)], "val/top1", "one"))
    assert labels
    assert all(map(str.isdecimal, labels))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
def test_ranks_of_classes_are_whole_numbers_that_begin_with_1(details, count):
    figure = run_figures.class_norms(of_classes(details, [*range(count, 0, -1)]))
    labels = ticks(figure)
    assert labels
    assert all(map(str.isdecimal, labels))
    assert figure.axes[0].lines[0].get_xdata().tolist() == [*range(1, count + 1)]


@pytest.mark.parametrize("sizes", [[60, 30, 22], [142, 10, 2], [5000, 50, 1], [7, 7, 7]])
def test_sizes_of_classes_are_plain_numbers(details, sizes):
    labels = ticks(run_figures.per_class_accuracy(of_classes(details, sizes)))
    assert labels
    assert all(label.replace(",", "").isdecimal() for label in labels)


def test_of_a_single_epoch_every_accuracy_is_seen(record):
    one = dataclasses.replace(record, epochs=[record.epochs[-1]])
    with Image.open(io.BytesIO(to_png(run_figures.accuracy_curves(one)))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    above_the_legend = pixels[: len(pixels) * 3 // 4].reshape(-1, 3).tolist()
    assert above_the_legend.count([0xD5, 0x5E, 0x00]) > 20, "the few"


def test_lines_along_0_and_100_are_seen_whole(record):
    for draw in (run_figures.accuracy_curves, run_figures.throughput_curves):
        low, high = draw(record).axes[-1].get_ylim()
        assert low < 0
        assert high > 100


def test_starts_that_are_alike_share_a_column(record):
    starts = [record.environments[0] | {"started": f"day {day}"} for day in range(12)]
    starts[11] = starts[11] | {"torch": "another"}
    (table,) = run_sections._environments(dataclasses.replace(record, environments=starts))
    first = ", ".join(f"day {day}" for day in range(11))
    assert [column.name for column in table.columns] == ["started", first, "day 11"]
    (torch,) = [row for row in table.rows if row[0].text == "torch"]
    assert [cell.text for cell in torch] == ["torch", str(record.environments[0]["torch"]), "another"]
