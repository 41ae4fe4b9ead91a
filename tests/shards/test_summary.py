"""Summaries of shards and the preview that `fasticcl show --samples` draws."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import fasticcl
from fasticcl.cli import tables
from fasticcl.convert.layouts.registry import LAYOUTS
from fasticcl.data.loader import Loader, draw_stream
from fasticcl.data.plan import Plan
from fasticcl.errors import UserError
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import Shards
from fasticcl.shards.summary import Summary


def summary_of(counts):
    return Summary(manifest=None, splits={}, counts=np.array(counts))


def test_a_summary_counts_what_was_converted(photo_source, photo_shards):
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
def test_groups_have_the_borders_of_section_4_2(counts, groups):
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


@pytest.mark.parametrize("counts", [[7], [1, 1], [10_000, 10_000], [12, 12, 12]])
def test_a_histogram_of_equal_classes_is_one_bar(counts):
    lines = list(tables.histogram(summary_of(counts)))
    assert len(lines) == 2
    assert lines[1].endswith(f"█ {len(counts)}")


def test_a_drawn_stream_equals_that_of_the_mixed_batch(photo_shards):
    config = fasticcl.configure("folder", data=photo_shards, set={"data.image_size": 64})
    shards = Shards(photo_shards, "train")
    plan = Plan(shards.index, shards.counts, config.data, batch_size=6, seed=3)
    batch = next(Loader(shards, plan, threads=1).batches("interpolative"))
    drawn = plan.batch("interpolative", 0, 0)
    x_h, x_t = (draw_stream(shards, stream, config.data) for stream in (drawn.agnostic, drawn.aware))
    assert torch.equal(x_h.x, batch.x_h)
    assert torch.equal(x_t.y, batch.y_t)
    lam = batch.lam.reshape(-1, 1, 1, 1)
    assert torch.allclose(lam * x_h.x + (1 - lam) * x_t.x, batch.x_f, atol=2e-5)


def test_the_preview_shows_the_pixels_of_the_batch(digit_shards, tmp_path):
    fasticcl.show(digit_shards, samples=tmp_path / "seen.png", seed=5)
    preview = np.asarray(Image.open(tmp_path / "seen.png"))
    config = fasticcl.configure("demo", data=digit_shards, seed=5)
    shards = Shards(digit_shards, "train")
    plan = Plan(shards.index, shards.counts, config.data, batch_size=8, seed=5)
    batch = next(Loader(shards, plan, threads=1).batches("interpolative"))
    seen = ((batch.x_f[0].permute(1, 2, 0).numpy() * config.data.std + config.data.mean) * 255).round()
    enlarged = np.kron(seen.clip(0, 255).astype(np.uint8), np.ones((8, 8, 1), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(preview, enlarged.shape)[:, :, 0]
    assert (np.abs(windows[:, 8].astype(int) - enlarged).max(axis=(1, 2, 3)) <= 1).any()


def test_another_seed_draws_another_preview(digit_shards, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        fasticcl.show(digit_shards, samples=tmp_path / f"{name}.png", seed=seed)
    one, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


def test_a_preview_that_cannot_be_written_is_named(digit_shards, tmp_path):
    with pytest.raises(UserError, match=r"Cannot write .*nowhere/seen\.png: No such file"):
        fasticcl.show(digit_shards, samples=tmp_path / "nowhere" / "seen.png")


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(UserError, match=r"There are no shards in .*manifest\.json"):
        fasticcl.show(tmp_path)


def test_the_summary_is_printed(digit_shards):
    lines = "\n".join(tables.shards(fasticcl.show(digit_shards)))
    assert "classes   10: 1 many (142), 4 medium (212), 5 few (38) training images" in lines
    assert "imbalance 71.0 = 142 / 2" in lines
    assert "height 8/8/8, width 8/8/8 pixels" in lines
    assert Manifest.read(digit_shards).dataset in lines


def test_every_layout_is_listed_with_its_example_command():
    lines = list(tables.layouts())
    for name, layout in LAYOUTS.items():
        assert name in lines
        assert f"  next     {layout.example}" in lines
        assert layout.example.split()[:3] == ["fasticcl", "convert", name]
