"""Summaries of shards, and their output on the command line."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

import fasticcl
from fasticcl.errors import UserError
from fasticcl.shards.summary import Summary


def summary_of(counts):
    return Summary(manifest=None, splits={}, counts=np.array(counts))


def test_summary_counts_the_converted_images(photo_source, photo_shards):
    summary = fasticcl.show(photo_shards)
    assert summary.counts.tolist() == [12, 6, 3]
    assert summary.imbalance == 4
    assert summary.groups == {"many": (0, 0), "medium": (0, 0), "few": (3, 21)}
    train = summary.splits["train"]
    sizes = [Image.open(io.BytesIO(item.read())).size for item in photo_source.splits["train"]]
    widths, heights = zip(*sizes, strict=True)
    assert (train.images, train.shards) == (21, 3)
    assert train.widths == (min(widths), int(np.median(widths)), max(widths))
    assert train.heights == (min(heights), int(np.median(heights)), max(heights))
    assert train.bytes == sum(path.stat().st_size for path in (photo_shards / "train").glob("*.tar"))


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([101, 100, 20, 19], {"many": (1, 101), "medium": (2, 120), "few": (1, 19)}),
        ([1000, 2], {"many": (1, 1000), "medium": (0, 0), "few": (1, 2)}),
    ],
)
def test_class_groups_have_the_boundaries_of_section_4_2(counts, groups):
    assert summary_of(counts).groups == groups


def test_every_class_is_in_exactly_one_bar_of_the_histogram():
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 30_000, 500)
    bars = summary_of(counts).histogram
    assert sum(classes for _, _, classes in bars) == 500
    for first, last, classes in bars:
        assert classes == ((counts >= first) & (counts <= last)).sum()
    assert bars[-1][1] == counts.max()
    assert all(one[1] + 1 == two[0] for one, two in itertools.pairwise(bars))


def test_folder_without_shards_gives_an_error_with_its_path(tmp_path):
    with pytest.raises(UserError, match=r"There are no shards in .*manifest\.json"):
        fasticcl.show(tmp_path)
