"""Images damaged after the conversion: their substitutes, and that nothing else changes."""

import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import fasticcl
from fasticcl.config import Data
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.data.loader import Loader, evaluation_batches
from fasticcl.data.plan import Plan
from fasticcl.engine.dataset import open_dataset
from fasticcl.engine.loop import Loop
from fasticcl.errors import TrainingFailed
from fasticcl.files import file_sha256
from fasticcl.resolve import resolve
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.reader import INDEX, DamagedImages, Shards, shard_name
from tests.support.images import encode, noise

COUNTS = [12, 9, 6, 3]
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
    return shards_of(images, tmp_path / "plain")


@pytest.fixture
def varied(tmp_path):
    rng = np.random.default_rng(0)
    return shards_of(
        [encode(noise(rng, 40, 44), quality=90) for _ in range(sum(COUNTS))], tmp_path / "varied"
    )


def shards_of(images, folder):
    labels = np.repeat(range(len(COUNTS)), COUNTS).tolist()
    items = [
        Item(image, label, f"{i}.jpg") for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    val = [Item(images[sum(COUNTS[:k])], k, f"v{k}.jpg") for k in range(len(COUNTS))]
    convert(Source("folder", list("abcd"), {"train": items, "val": val}), folder, shard_size=7)
    return folder


def rot(folder, *rows, split="train"):
    """Flip one bit of the images in these rows."""
    for row in rows:
        overwrite(
            folder, row, lambda image: image[:40] + bytes([image[40] ^ 1]) + image[41:], split, fix=False
        )


def overwrite(
    folder: Path, row: int, change: Callable[[bytes], bytes], split: str = "train", fix: bool = True
):
    """Change the bytes of an image. With ``fix``, update all checksums."""
    index = np.load(folder / split / INDEX)
    shard, offset, size = (int(index[row][name]) for name in ("shard", "offset", "size"))
    path = folder / split / f"{shard_name(shard)}.tar"
    content = path.read_bytes()
    image = change(content[offset : offset + size])
    assert len(image) == size
    assert image != content[offset : offset + size]
    path.write_bytes(content[:offset] + image + content[offset + size :])
    if not fix:
        return
    index["crc32"][row] = zlib.crc32(image)
    np.save(folder / split / INDEX, index)
    manifest = Manifest.read(folder)
    info = manifest.splits[split]
    stored = [
        each.model_copy(update={"sha256": file_sha256(folder / split / each.name)}) for each in info.shards
    ]
    changed = info.model_copy(update={"shards": stored, "index_sha256": file_sha256(folder / split / INDEX)})
    manifest.model_copy(update={"splits": {**manifest.splits, split: changed}}).write(folder)


def fill(start: bytes) -> Callable[[bytes], bytes]:
    return lambda image: (start + bytes(len(image)))[: len(image)]


UNDECODABLE = {
    "garbage": lambda image: np.random.default_rng(1).bytes(len(image)),
    "zeros": fill(b""),
    "html": fill(b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "gif": fill(b"GIF89a\x10\x00\x10\x00\x80\x00\x00"),
    "header only": lambda image: image[:24] + bytes(len(image) - 24),
    "second half gone": lambda image: image[: len(image) // 2] + bytes(len(image) - len(image) // 2),
}


def spoil(folder, *rows, split="train"):
    """Replace these images by garbage with valid checksums."""
    for row in rows:
        overwrite(folder, row, UNDECODABLE["garbage"], split)


HARMS = {"rotten": rot, "undecodable": spoil}
each_damage = pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())


def open_loader(folder, settings=PLAIN, prefetch=3, rank=0, world_size=1, limit=100):
    shards = Shards(folder, "train")
    data = Data(dataset="folder", dir=folder, max_bad_samples=limit, **settings)
    plan = Plan(shards.index, shards.counts, data, batch_size=BATCH, seed=5, rank=rank, world_size=world_size)
    warnings = []
    loader = Loader(shards, plan, prefetch=prefetch, threads=1, warn=warnings.append)
    loader.warnings = warnings
    return loader


def take(loader, phase, count=2 * STEPS, epoch=0, step=0):
    return list(islice(loader.batches(phase, epoch, step), count))


def rows_of(images):
    """Return the rows of plain images, from their colours."""
    return (images[:, 0, 4, 4] * 255 / 8).round().int().tolist()


def label_of(row):
    return int(np.searchsorted(np.cumsum(COUNTS), row, side="right"))


def drawn(loader, phase, stream, place):
    """Return the planned rows of a stream in a step."""
    return getattr(loader.plan.batch(phase, *divmod(place, STEPS)), stream).rows.tolist()


@each_damage
@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize("phase", ["warmup", "rebalance"])
def test_substitute_is_of_the_same_class_and_other_images_stay(plain, phase, prefetch, harm):
    loader, stream = open_loader(plain, prefetch=prefetch), "agnostic" if phase == "warmup" else "aware"
    planned = [drawn(loader, phase, stream, place) for place in range(2 * STEPS)]
    bad = {planned[0][2], planned[0][7], planned[2][4], planned[4][9]}  # two in the same batch
    harm(plain, *bad)
    batches = take(open_loader(plain, prefetch=prefetch), phase)
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


@each_damage
@pytest.mark.parametrize("stream", ["agnostic", "aware"])
def test_mix_has_the_substitute_with_its_lambda(plain, stream, harm):
    loader = open_loader(plain, {**PLAIN, "lambda_per": "sample"})
    bad = drawn(loader, "interpolative", stream, 1)[3]
    harm(plain, bad)
    places = 0
    for place, batch in enumerate(
        take(open_loader(plain, {**PLAIN, "lambda_per": "sample"}), "interpolative")
    ):
        planned = loader.plan.batch("interpolative", *divmod(place, STEPS))
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
                    places += 1
                    assert round(seen) != bad
                    assert label_of(round(seen)) == label_of(row)
                elif planned.lam[slot] < 0.99:  # else x_t is too faint to identify
                    assert abs(seen - row) < 0.5
    assert places >= 2


@each_damage
@pytest.mark.parametrize("phase", ["warmup", "interpolative", "rebalance"])
def test_all_other_images_are_equal_to_the_bit(varied, phase, harm):
    """With random windows, flips, colours and λ, all other images equal those of undamaged shards."""
    sound = take(open_loader(varied, VARIED), phase)
    loader, streams = open_loader(varied, VARIED), {"warmup": ["agnostic"], "rebalance": ["aware"]}
    bad = {
        drawn(loader, phase, stream, 1)[i]
        for i, stream in enumerate(streams.get(phase, ["agnostic", "aware"]))
    }
    harm(varied, *bad)
    changed = 0
    for place, (batch, before) in enumerate(
        zip(take(open_loader(varied, VARIED), phase), sound, strict=True)
    ):
        planned = loader.plan.batch(phase, *divmod(place, STEPS))
        hit = {
            name: np.isin(getattr(planned, name).rows, [*bad])
            for name in ("agnostic", "aware")
            if getattr(planned, name)
        }
        touched = np.any([*hit.values()], axis=0)
        where = {"x": touched, "x_h": hit.get("agnostic"), "x_f": touched}
        for name, value in vars(batch).items():
            same = [torch.equal(a, b) for a, b in zip(value, getattr(before, name), strict=True)]
            expected = ~where[name] if name in where else np.ones(BATCH, dtype=bool)
            assert same == expected.tolist(), (place, name)
        changed += touched.sum()
    assert changed >= len(bad)


def all_bytes(batches):
    return [
        b"".join(value.contiguous().numpy().tobytes() for value in vars(batch).values()) for batch in batches
    ]


@each_damage
@pytest.mark.parametrize("phase", ["warmup", "interpolative", "rebalance"])
def test_substitute_does_not_depend_on_when_the_image_was_found(varied, phase, harm):
    loader = open_loader(varied, VARIED)
    bad = [
        drawn(loader, phase, "aware" if phase == "rebalance" else "agnostic", place)[0] for place in (1, 3)
    ]
    harm(varied, *bad)
    expected = all_bytes(take(open_loader(varied, VARIED), phase))
    for prefetch in (1, 5):
        assert all_bytes(take(open_loader(varied, VARIED, prefetch), phase)) == expected
    known = open_loader(varied, VARIED)
    known.bad_samples.report(bad, "known")
    assert all_bytes(take(known, phase)) == expected
    for place in range(1, 2 * STEPS):  # a run resumed at this step
        resumed = take(open_loader(varied, VARIED), phase, 2 * STEPS - place, *divmod(place, STEPS))
        assert all_bytes(resumed) == expected[place:]


@each_damage
def test_ranks_have_the_substitutes_of_a_single_process(varied, harm):
    loader = open_loader(varied, VARIED)
    harm(
        varied,
        drawn(loader, "interpolative", "agnostic", 0)[1],
        drawn(loader, "interpolative", "aware", 1)[8],
    )
    whole = take(open_loader(varied, VARIED), "interpolative")
    parts = [take(open_loader(varied, VARIED, rank=rank, world_size=2), "interpolative") for rank in range(2)]
    for one, *two in zip(whole, *parts, strict=True):
        for name, value in vars(one).items():
            assert torch.equal(torch.cat([getattr(part, name) for part in two]), value)


@pytest.mark.parametrize("kind", UNDECODABLE)
@pytest.mark.parametrize("image", ["JPEG", "PNG"])
def test_undecodable_images_are_found(tmp_path, kind, image):
    rng = np.random.default_rng(2)
    folder = shards_of([encode(noise(rng, 40, 44), image) for _ in range(sum(COUNTS))], tmp_path / "shards")
    loader = open_loader(folder, VARIED)
    bad = drawn(loader, "warmup", "agnostic", 0)[5]
    overwrite(folder, bad, UNDECODABLE[kind])
    loader = open_loader(folder, VARIED)
    take(loader, "warmup")
    assert [name.split(" ")[3] for name in loader.warnings] == [
        f"{bad:09d}_{bad}.{'jpg' if image == 'JPEG' else 'png'}:"
    ]


@each_damage
def test_each_unreadable_image_is_named_once_with_the_reason(plain, harm):
    loader = open_loader(plain)
    names = sorted(loader.shards.name(row) for row in (1, 20, 29))
    harm(plain, 1, 20, 29)
    loader = open_loader(plain)
    for phase in ("warmup", "interpolative", "rebalance"):
        take(loader, phase, 4 * STEPS)
    reason = "damaged since the conversion" if harm is rot else "cannot be decoded"
    expected = [f"warning  {name}: {reason}, replaced by another image of its class" for name in names]
    assert sorted(loader.warnings) == expected
    assert len(loader.bad_samples) == 3


@each_damage
def test_unreadable_substitutes_are_replaced_too(plain, harm):
    """Only one of twelve images of the first class is readable."""
    harm(plain, *range(11))
    loader = open_loader(plain)
    for batch in take(loader, "warmup", 4 * STEPS):
        for seen, label in zip(rows_of(batch.x), batch.y.tolist(), strict=True):
            assert seen == 11 if label == 0 else label_of(seen) == label
    assert len(loader.bad_samples) == 11


@each_damage
@pytest.mark.parametrize("limit", [0, 2, 3])
def test_too_many_unreadable_images_end_training_with_a_list(plain, harm, limit):
    bad = (1, 15, 23, 28)
    harm(plain, *bad)
    loader = open_loader(plain, limit=limit)
    names = [loader.shards.name(row) for row in bad]
    with pytest.raises(TrainingFailed) as failed:
        take(loader, "warmup", 4 * STEPS)
    sentence = str(failed.value)
    listed = [name for name in names if name in sentence]
    assert len(listed) >= limit + 1
    assert sentence.startswith(
        f"{len(listed)} images cannot be read, more than data.max_bad_samples ({limit}): "
    )
    assert sentence.endswith(f". Convert {plain} again, or raise data.max_bad_samples.")


@each_damage
def test_max_bad_samples_images_do_not_end_training(plain, harm):
    harm(plain, 1, 15, 23, 28)
    loader = open_loader(plain, limit=4)
    take(loader, "warmup", 4 * STEPS)
    assert len(loader.bad_samples) == 4


@each_damage
def test_class_without_readable_images_is_named(plain, harm):
    harm(plain, 27, 28, 29)
    with pytest.raises(TrainingFailed) as failed:
        take(open_loader(plain), "warmup", 4 * STEPS)
    assert str(failed.value) == f"The class 'd' has no readable image left. Convert {plain} again."


def test_batches_before_the_failure_are_yielded(plain):
    loader = open_loader(plain, prefetch=1)
    rot(plain, drawn(loader, "warmup", "agnostic", 2)[0])
    batches = open_loader(plain, prefetch=1, limit=0).batches("warmup")
    for place in range(2):
        assert rows_of(next(batches).x) == drawn(loader, "warmup", "agnostic", place)
    with pytest.raises(TrainingFailed):
        next(batches)


@each_damage
@pytest.mark.parametrize("row", [0, 3])
def test_unreadable_evaluation_image_is_named(plain, harm, row):
    if harm is rot:
        rot(plain, row, split="val")
    else:
        overwrite(plain, row, UNDECODABLE["garbage"], split="val")
    shards = Shards(plain, "val")
    with pytest.raises(TrainingFailed) as failed:
        list(evaluation_batches(shards, Data(dataset="folder", dir=plain, **PLAIN), batch_size=2))
    sentence = str(failed.value)
    assert sentence.startswith(shards.name(row))
    assert sum(shards.name(each) in sentence for each in range(4)) == 1
    assert sentence.endswith(f". Convert {plain} again.")
    assert "\n" not in sentence


def test_evaluation_that_fails_for_another_reason_names_no_image(plain, monkeypatch):
    def out_of_memory(*_):
        raise RuntimeError("allocation failed\nand a long story")

    monkeypatch.setattr("fasticcl.data.dali_pipeline.GraphPipeline.run", out_of_memory)
    data = Data(dataset="folder", dir=plain, **PLAIN)
    with pytest.raises(TrainingFailed, match=r"^A batch could not be decoded: allocation failed$"):
        list(evaluation_batches(Shards(plain, "val"), data, batch_size=2))


SMALL = {
    "method.encoder": "resnet8",
    "data.image_size": 16,
    "data.eval_resize": 18,
    "engine.log_every": 1,
    "engine.report": False,
}


def train(folder, project, set=(), **options):
    settings = {**SMALL, "method.warmup_epochs": 1, "rebalance.epochs": 2, **dict(set)}
    options = {"batch_size": BATCH, "epochs": 3, "name": "run", **options}
    return fasticcl.train("folder", data=folder, project=project, device="cpu", set=settings, **options)


def counted(run):
    found = re.findall(r'"data/bad_samples": (\d+)', (run / "metrics.jsonl").read_text())
    return [int(count) for count in found]


@each_damage
def test_training_continues_with_warnings_and_a_count(varied, tmp_path, harm, capsys):
    harm(varied, 0, 29)
    report = train(varied, tmp_path, console=Console())
    assert counted(report.run) == [2] * 5
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(said) == 2
    assert all("replaced by another image of its class" in line for line in said)


@each_damage
def test_interrupted_run_with_bad_images_ends_with_the_same_bits(varied, tmp_path, monkeypatch, harm):
    harm(varied, 0, 14, 29)
    undisturbed = train(varied, tmp_path, name="undisturbed").run
    step, taken = Loop.take_step, 0

    def crash(self, *arguments):
        nonlocal taken
        step(self, *arguments)
        taken += 1
        if taken % 4 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "take_step", crash)
    with pytest.raises(KeyboardInterrupt):
        train(varied, tmp_path, save_every="1")
    while True:
        try:
            run = fasticcl.train("folder", project=tmp_path, name="run", resume=True).run
        except KeyboardInterrupt:
            continue
        break
    assert taken > 5 * STEPS
    names = ("model.safetensors", "results.csv")
    assert [(run / name).read_bytes() for name in names] == [
        (undisturbed / name).read_bytes() for name in names
    ]
    assert counted(run) == counted(undisturbed)


def test_run_with_too_many_bad_images_resumes_after_a_repair(varied, tmp_path):
    sound = train(varied, tmp_path, name="sound").run
    shard = varied / "train/shard-000000.tar"
    content = shard.read_bytes()
    rot(varied, 0, 1, 2)
    with pytest.raises(TrainingFailed, match=r"images cannot be read, more than data\.max_bad_samples \(1\)"):
        train(varied, tmp_path, {"data.max_bad_samples": 1})
    shard.write_bytes(content)
    run = fasticcl.train("folder", project=tmp_path, name="run", resume=True).run
    assert (run / "model.safetensors").read_bytes() == (sound / "model.safetensors").read_bytes()


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
    elsewhere = [
        plan.substitute(14, *place, 0) for place in [("warmup", 2, 2), ("warmup", 3, 1), ("rebalance", 2, 1)]
    ]
    first = plan.substitute(14, "warmup", 2, 1, 0)
    assert all(not np.array_equal(first.windows, other.windows) for other in elsewhere)


def test_checksums_can_be_disabled(varied):
    """Without checksums, an image with a changed byte is read like any other."""
    rot(varied, 3)
    config = resolve("demo", assignments=[f"data.dir={str(varied)!r}", "data.verify_reads=false"])
    unchecked, row = open_dataset(config).train, np.array([3])
    assert len(unchecked.read(row)) == 1
    with pytest.raises(DamagedImages, match="shard-000000"):
        Shards(varied, "train").read(row)


def draw_large_batches(source, folder):
    """Draw batches so large that DALI parses headers on several threads, and return a line per kind."""
    lines = []
    for kind, change in UNDECODABLE.items():
        shards = shutil.copytree(source, folder / kind)
        rows = np.random.default_rng(0).choice(len(Shards(shards, "train")), 12, replace=False).tolist()
        for row in rows:
            overwrite(shards, row, change)
        opened = Shards(shards, "train")
        data = Data(dataset="folder", dir=shards, image_size=16, crop="pad", eval_resize=0)
        plan = Plan(opened.index, opened.counts, data, batch_size=64, seed=1)
        loader = Loader(opened, plan, threads=2)
        drawn = sum(len(batch.y_h) for batch in islice(loader.batches("interpolative"), 8))
        lines.append(f"{kind} {drawn} {sorted(rows) == loader.bad_samples.rows}")
    return "\n".join(lines)


def test_no_header_crashes_the_process_in_a_large_batch(digit_shards, tmp_path):
    script = "import sys, pathlib, tests.data.test_bad_samples as t\n"
    script += "print(t.draw_large_batches(*map(pathlib.Path, sys.argv[1:])))"
    command = [sys.executable, "-c", script, str(digit_shards), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=200)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"{kind} {8 * 64} True" for kind in UNDECODABLE]
