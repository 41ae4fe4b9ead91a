"""Substitutes of images that were damaged after the conversion. All other images stay the same."""

import re
import shutil
from dataclasses import asdict
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from fasticcl.config import Data
from fasticcl.data.batch import tensors_of
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.engine.dataset import open_dataset
from fasticcl.errors import TrainingFailed
from fasticcl.resolve import resolve
from fasticcl.shards.reader import DamagedImages, Shards
from tests.support.damaged_shards import (
    COUNTS,
    UNDECODABLE,
    change_image,
    flip_bit,
    for_each_damage,
    make_undecodable,
    write_noisy_shards,
    write_shards,
)
from tests.support.images import encode, noise
from tests.support.processes import Child

BATCH = 10
STEPS = sum(COUNTS) // BATCH
PLAIN = {
    "image_size": 8,
    "crop": "pad",
    "crop_padding": 0,
    "eval_resize": 0,
    "flip": 0.0,
    "mean": (0, 0, 0),
    "std": (1, 1, 1),
}
VARIED = {"image_size": 16, "crop_scale": (0.3, 1.0), "eval_resize": 18, "color_jitter": (0.4, 0.4, 0.4)}


def colour(row):
    """Return the single colour of an image of the plain shards, which identifies its row."""
    return (8 * row, 255 - 8 * row, 7)


@pytest.fixture
def plain(tmp_path):
    images = [encode(Image.new("RGB", (8, 8), colour(row)), "PNG") for row in range(sum(COUNTS))]
    return write_shards(images, tmp_path / "plain")


@pytest.fixture
def varied(tmp_path):
    return write_noisy_shards(tmp_path / "varied")


def open_loader(folder, settings=PLAIN, prefetch=3, limit=100, **options):
    shards = Shards(folder, "train")
    data = Data(dataset="folder", dir=folder, max_bad_samples=limit, **settings)
    plan = Plan(shards.index, shards.counts, data, batch_size=BATCH, seed=5, **options)
    warnings = []
    loader = Loader(shards, plan, prefetch=prefetch, threads=1, warn=warnings.append)
    loader.warnings = warnings
    return loader


def first_batches(loader, phase, count=2 * STEPS, epoch=0, step=0):
    return list(islice(loader.batches(phase, epoch, step), count))


def rows_of(images):
    """Return the rows of plain images, from their colours."""
    return (images[:, 0, 4, 4] * 255 / 8).round().int().tolist()


def label_of(row):
    return int(np.searchsorted(np.cumsum(COUNTS), row, side="right"))


def planned_rows(loader, phase, stream, step):
    """Return the planned rows of a stream in a step, counted from the first epoch."""
    return getattr(loader.plan.batch(phase, *divmod(step, STEPS)), stream).rows.tolist()


@for_each_damage
@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize("phase", ["warmup", "rebalance"])
def test_substitutes_are_of_the_same_class_and_other_images_stay(plain, phase, prefetch, damage):
    options = {"prefetch": prefetch, "resample_epoch": 1}  # the second half of the compared steps
    loader, stream = open_loader(plain, **options), "agnostic" if phase == "warmup" else "aware"
    planned = [planned_rows(loader, phase, stream, step) for step in range(2 * STEPS)]
    bad = {planned[0][2], planned[0][7], planned[2][4], planned[4][9]}  # two in the same batch
    damage(plain, *bad)
    batches = first_batches(open_loader(plain, **options), phase)
    replaced = 0
    for batch, rows in zip(batches, planned, strict=True):
        assert batch.y.tolist() == [label_of(row) for row in rows]
        for seen, row in zip(rows_of(batch.x), rows, strict=True):
            if row in bad:
                replaced += 1
                assert seen not in bad
                assert label_of(seen) == label_of(row)
            else:
                assert seen == row
    assert replaced >= 4


@for_each_damage
@pytest.mark.parametrize("stream", ["agnostic", "aware"])
def test_mixed_image_uses_the_substitute_with_the_same_lambda(plain, stream, damage):
    loader = open_loader(plain, {**PLAIN, "lambda_per": "sample"})
    bad = planned_rows(loader, "interpolative", stream, 1)[3]
    damage(plain, bad)
    substitutes = 0
    for step, batch in enumerate(
        first_batches(open_loader(plain, {**PLAIN, "lambda_per": "sample"}), "interpolative")
    ):
        planned = loader.plan.batch("interpolative", *divmod(step, STEPS))
        assert batch.y_h.tolist() == planned.agnostic.labels.tolist()
        assert batch.y_t.tolist() == planned.aware.labels.tolist()
        assert torch.equal(batch.lam, torch.from_numpy(planned.lam))
        seen_h = np.array(rows_of(batch.x_h))
        seen_t = (batch.x_f[:, 0, 4, 4].numpy() * 255 / 8 - planned.lam * seen_h) / (1 - planned.lam)
        for slot in range(BATCH):
            for seen, row in (
                (seen_h[slot], planned.agnostic.rows[slot]),
                (seen_t[slot], planned.aware.rows[slot]),
            ):
                if row == bad:
                    substitutes += 1
                    assert round(seen) != bad
                    assert label_of(round(seen)) == label_of(row)
                elif planned.lam[slot] < 0.99:  # else x_t is too faint to identify
                    assert abs(seen - row) < 0.5
    assert substitutes >= 2


@for_each_damage
@pytest.mark.parametrize("phase", ["warmup", "interpolative", "rebalance"])
def test_all_other_images_are_bit_identical(varied, phase, damage):
    """With random windows, flips, colours and λ, all other images equal those of intact shards."""
    sound = first_batches(open_loader(varied, VARIED), phase)
    loader, streams = open_loader(varied, VARIED), {"warmup": ["agnostic"], "rebalance": ["aware"]}
    bad = {
        planned_rows(loader, phase, stream, 1)[i]
        for i, stream in enumerate(streams.get(phase, ["agnostic", "aware"]))
    }
    damage(varied, *bad)
    changed = 0
    for step, (batch, before) in enumerate(
        zip(first_batches(open_loader(varied, VARIED), phase), sound, strict=True)
    ):
        planned = loader.plan.batch(phase, *divmod(step, STEPS))
        hit = {
            name: np.isin(getattr(planned, name).rows, [*bad])
            for name in ("agnostic", "aware")
            if getattr(planned, name)
        }
        substituted = np.any([*hit.values()], axis=0)
        changed_images = {"x": substituted, "x_h": hit.get("agnostic"), "x_f": substituted}
        for name, value in tensors_of(batch).items():
            same = [torch.equal(a, b) for a, b in zip(value, getattr(before, name), strict=True)]
            expected = ~changed_images[name] if name in changed_images else np.ones(BATCH, dtype=bool)
            assert same == expected.tolist(), (step, name)
        changed += substituted.sum()
    assert changed >= len(bad)


def all_bytes(batches):
    return [
        b"".join(value.contiguous().numpy().tobytes() for value in tensors_of(batch).values())
        for batch in batches
    ]


@for_each_damage
@pytest.mark.parametrize("phase", ["warmup", "interpolative", "rebalance"])
def test_substitute_does_not_depend_on_when_the_damage_is_detected(varied, phase, damage):
    loader = open_loader(varied, VARIED)
    bad = [
        planned_rows(loader, phase, "aware" if phase == "rebalance" else "agnostic", step)[0]
        for step in (1, 3)
    ]
    damage(varied, *bad)
    expected = all_bytes(first_batches(open_loader(varied, VARIED), phase))
    for prefetch in (1, 5):
        assert all_bytes(first_batches(open_loader(varied, VARIED, prefetch), phase)) == expected
    known = open_loader(varied, VARIED)
    known.bad_samples.report(bad, "known")
    assert all_bytes(first_batches(known, phase)) == expected
    for step in range(1, 2 * STEPS):  # a run resumed at this step
        resumed = first_batches(open_loader(varied, VARIED), phase, 2 * STEPS - step, *divmod(step, STEPS))
        assert all_bytes(resumed) == expected[step:]


@for_each_damage
def test_ranks_have_the_substitutes_of_a_single_process(varied, damage):
    loader = open_loader(varied, VARIED)
    damage(
        varied,
        planned_rows(loader, "interpolative", "agnostic", 0)[1],
        planned_rows(loader, "interpolative", "aware", 1)[8],
    )
    whole = first_batches(open_loader(varied, VARIED), "interpolative")
    parts = [
        first_batches(open_loader(varied, VARIED, rank=rank, world_size=2), "interpolative")
        for rank in range(2)
    ]
    for one, *two in zip(whole, *parts, strict=True):
        for name, value in tensors_of(one).items():
            assert torch.equal(torch.cat([getattr(part, name) for part in two]), value)


@pytest.mark.parametrize("kind", UNDECODABLE)
@pytest.mark.parametrize("image", ["JPEG", "PNG"])
def test_undecodable_images_are_reported_by_name(tmp_path, kind, image):
    rng = np.random.default_rng(2)
    folder = write_shards(
        [encode(noise(rng, 40, 44), image) for _ in range(sum(COUNTS))], tmp_path / "shards"
    )
    loader = open_loader(folder, VARIED)
    bad = planned_rows(loader, "warmup", "agnostic", 0)[5]
    change_image(folder, bad, UNDECODABLE[kind])
    loader = open_loader(folder, VARIED)
    first_batches(loader, "warmup")
    assert [name.split(" ")[3] for name in loader.warnings] == [
        f"{bad:09d}_{bad}.{'jpg' if image == 'JPEG' else 'png'}:"
    ]


@for_each_damage
def test_each_unreadable_image_is_named_once_with_the_reason(plain, damage):
    loader = open_loader(plain)
    names = sorted(loader.shards.name(row) for row in (1, 20, 29))
    damage(plain, 1, 20, 29)
    loader = open_loader(plain)
    for phase in ("warmup", "interpolative", "rebalance"):
        first_batches(loader, phase, 4 * STEPS)
    reason = "damaged since the conversion" if damage is flip_bit else "cannot be decoded"
    expected = [f"warning  {name}: {reason}, replaced by another image of its class" for name in names]
    assert sorted(loader.warnings) == expected
    assert len(loader.bad_samples) == 3


@for_each_damage
def test_unreadable_substitutes_are_replaced_too(plain, damage):
    """Only one of twelve images of the first class is readable."""
    damage(plain, *range(11))
    loader = open_loader(plain)
    for batch in first_batches(loader, "warmup", 4 * STEPS):
        for seen, label in zip(rows_of(batch.x), batch.y.tolist(), strict=True):
            assert seen == 11 if label == 0 else label_of(seen) == label
    assert len(loader.bad_samples) == 11


@for_each_damage
@pytest.mark.parametrize("limit", [0, 2, 3])
def test_more_than_max_bad_samples_stop_training_with_a_list(plain, damage, limit):
    bad = (1, 15, 23, 28)
    damage(plain, *bad)
    loader = open_loader(plain, limit=limit)
    names = [loader.shards.name(row) for row in bad]
    with pytest.raises(TrainingFailed) as failed:
        first_batches(loader, "warmup", 4 * STEPS)
    sentence = str(failed.value)
    listed = [name for name in names if name in sentence]
    assert len(listed) >= limit + 1
    assert sentence.startswith(
        f"{len(listed)} images cannot be read, more than data.max_bad_samples ({limit}): "
    )
    assert sentence.endswith(f". Convert {plain} again, or raise data.max_bad_samples.")


@for_each_damage
def test_exactly_max_bad_samples_do_not_stop_training(plain, damage):
    damage(plain, 1, 15, 23, 28)
    loader = open_loader(plain, limit=4)
    first_batches(loader, "warmup", 4 * STEPS)
    assert len(loader.bad_samples) == 4


@for_each_damage
def test_class_without_readable_images_is_reported_by_name(plain, damage):
    damage(plain, 27, 28, 29)
    with pytest.raises(TrainingFailed) as failed:
        first_batches(open_loader(plain), "warmup", 4 * STEPS)
    assert str(failed.value) == f"The class 'd' has no readable image left. Convert {plain} again."


def test_batches_before_the_failure_are_yielded(plain):
    loader = open_loader(plain, prefetch=1)
    flip_bit(plain, planned_rows(loader, "warmup", "agnostic", 2)[0])
    batches = open_loader(plain, prefetch=1, limit=0).batches("warmup")
    for step in range(2):
        assert rows_of(next(batches).x) == planned_rows(loader, "warmup", "agnostic", step)
    with pytest.raises(TrainingFailed):
        next(batches)


@for_each_damage
@pytest.mark.parametrize("row", [0, 3])
def test_unreadable_evaluation_image_is_reported_by_name(plain, damage, row):
    damage(plain, row, split="val")
    shards = Shards(plain, "val")
    with pytest.raises(TrainingFailed) as failed:
        list(evaluation_batches(shards, Data(dataset="folder", dir=plain, **PLAIN), batch_size=2))
    sentence = str(failed.value)
    assert sentence.startswith(shards.name(row))
    assert sum(shards.name(other) in sentence for other in range(4)) == 1
    assert sentence.endswith(f". Convert {plain} again.")
    assert "\n" not in sentence


def failing_run(message):
    """Return a replacement of `Pipeline.run` that fails."""

    def run(*_):
        raise RuntimeError(f"Critical error in pipeline:\nencountered:\n\n{message}\nC++ context: [a.h:9]")

    return run


def evaluate(folder):
    data = Data(dataset="folder", dir=folder, **PLAIN)
    return list(evaluation_batches(Shards(folder, "val"), data, batch_size=2))


@pytest.mark.parametrize("read", [evaluate, lambda folder: first_batches(open_loader(folder), "warmup")])
@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "Can't allocate 9 bytes on device 0.",
            "Out of memory in DALI: Can't allocate 9 bytes on device 0. Use",
        ),
        (
            "CUDA runtime API error cudaErrorX (7)",
            "The GPU or its driver failed in DALI: CUDA runtime API error",
        ),
        ("dlopen libnvimgcodec.so failed!", "DALI cannot use one of its libraries: dlopen libnvimgcodec.so"),
    ],
)
def test_failures_of_the_machine_are_not_searched_for_images(plain, monkeypatch, read, message, sentence):
    monkeypatch.setattr("fasticcl.data.dali.pipeline.GraphPipeline.run", failing_run(message))
    monkeypatch.setattr("fasticcl.data.bad_samples.undecodable", None)  # must not be called
    make_undecodable(plain, 0, split="val")
    with pytest.raises(TrainingFailed, match=f"^{re.escape(sentence)}"):
        read(plain)


@pytest.mark.parametrize("read", [evaluate, lambda folder: first_batches(open_loader(folder), "warmup")])
def test_unknown_failure_without_a_bad_image_names_no_image(plain, monkeypatch, read):
    monkeypatch.setattr("fasticcl.data.dali.pipeline.GraphPipeline.run", failing_run("new text"))
    with pytest.raises(
        TrainingFailed, match=r"^DALI cannot compute a batch: new text\. Run `fasticcl doctor`"
    ):
        read(plain)


def test_plan_of_a_substitute_is_deterministic():
    """A substitute has its own window, flip and colours, drawn for its own size."""
    index = np.zeros(30, dtype=[("label", "<u4"), ("height", "<u4"), ("width", "<u4")])
    index["label"] = np.repeat(range(len(COUNTS)), COUNTS)
    index["height"], index["width"] = 100 + np.arange(30), 60
    plan = Plan(index, np.array(COUNTS), Data(dataset="folder", dir="unused"), batch_size=BATCH, seed=5)
    rows = set()
    for attempt in range(60):
        one = plan.substitute(14, "warmup", 2, 1, attempt)
        again = plan.substitute(14, "warmup", 2, 1, attempt)
        assert all(np.array_equal(value, asdict(again)[name]) for name, value in asdict(one).items())
        row = int(one.rows[0])
        rows.add(row)
        assert one.labels.tolist() == [1]
        top, left, height, width = one.windows[0]
        assert top >= 0
        assert top + height <= 100 + row
        assert left + width <= 60
    assert rows == set(range(12, 21))
    others = [
        plan.substitute(14, *position, 0)
        for position in [("warmup", 2, 2), ("warmup", 3, 1), ("rebalance", 2, 1)]
    ]
    first = plan.substitute(14, "warmup", 2, 1, 0)
    assert all(not np.array_equal(first.windows, other.windows) for other in others)


def test_checksums_can_be_disabled(varied):
    """Without checksums, an image with a changed byte is read like any other."""
    flip_bit(varied, 3)
    config = resolve("demo", assignments=[f"data.dir={str(varied)!r}", "data.verify_reads=false"])
    unchecked, row = open_dataset(config).train, np.array([3])
    assert len(unchecked.read(row)) == 1
    with pytest.raises(DamagedImages, match="shard-000000"):
        Shards(varied, "train").read(row)


def draw_large_batches(source, folder):
    """Draw batches large enough for DALI to parse headers on several threads, and return a line per kind."""
    lines = []
    for kind, change in UNDECODABLE.items():
        shards = shutil.copytree(source, folder / kind)
        rows = np.random.default_rng(0).choice(len(Shards(shards, "train")), 12, replace=False).tolist()
        for row in rows:
            change_image(shards, row, change)
        opened = Shards(shards, "train")
        data = Data(dataset="folder", dir=shards, image_size=16, crop="pad", eval_resize=0)
        plan = Plan(opened.index, opened.counts, data, batch_size=64, seed=1)
        loader = Loader(opened, plan, threads=2)
        images = sum(len(batch.y_h) for batch in islice(loader.batches("interpolative"), 8))
        lines.append(f"{kind} {images} {sorted(rows) == loader.bad_samples.rows}")
    return lines


def test_damaged_headers_in_large_batches_do_not_crash_the_process(digit_shards, tmp_path):
    lines = Child(tmp_path / "log", draw_large_batches, digit_shards, tmp_path).result()
    assert lines == [f"{kind} {8 * 64} True" for kind in UNDECODABLE]
