"""Predictions: those of evaluation, whatever the file is and whatever lies beside it."""

import io
import itertools
import struct
import weakref
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as vision

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.data.loader import evaluation_batches
from fasticcl.engine.run.weights import load_model
from fasticcl.errors import UserError
from fasticcl.predict import batches
from fasticcl.predict.batches import image_batches
from fasticcl.predict.inputs import ImageInput
from fasticcl.shards import images
from fasticcl.shards.images import MAX_PIXELS
from fasticcl.shards.reader import Shards
from tests.support.images import encode, photographs

PHOTO = photographs(1, seed=5)[0]
SAME = 1e-5  # of two batches of other sizes


def predict(run, images, **options):
    return [*fasticcl.predict(run, images, device="cpu", **options)]


def probabilities(rows, classes=10):
    """[N, K] in the order of the classes, whose names here are the digits."""
    found = np.full((len(rows), classes), np.nan)
    for row, prediction in zip(found, rows, strict=True):
        assert prediction.error is None
        row[[int(name) for name in prediction.classes]] = prediction.probabilities
    return found


def written(folder, contents):
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def photo_files(tmp_path):
    contents = photographs(7, seed=3)
    return written(tmp_path / "photos", {f"{i}.jpg": content for i, content in enumerate(contents)})


def test_rows_of_the_evaluated_split_give_the_accuracies_that_eval_reports(digit_run, digit_shards):
    report = fasticcl.evaluate(digit_run)
    shards = Shards(digit_shards, "test")
    truth = [shards.manifest.classes[label] for label in shards.index["label"]]
    for best, row in ((False, "after"), (True, "best")):
        rows = predict(digit_run, digit_shards / "test", topk=1, best=best)
        right = [prediction.classes == (name,) for prediction, name in zip(rows, truth, strict=True)]
        assert 100 * np.mean(right) == pytest.approx(report.rows[row]["val/top1"], abs=1e-9)
    assert report.rows["after"]["val/top1"] > 30  # it has learnt something


def test_a_row_has_the_likeliest_classes_with_probabilities_that_add_up_to_one(digit_run, photo_files):
    for whole, three in zip(
        predict(digit_run, photo_files, topk=99), predict(digit_run, photo_files, topk=3), strict=True
    ):
        assert sorted(whole.classes) == [*"0123456789"]
        assert sum(whole.probabilities) == pytest.approx(1, abs=1e-6)
        assert list(whole.probabilities) == sorted(whole.probabilities, reverse=True)
        assert (three.classes, three.probabilities) == (whole.classes[:3], whole.probabilities[:3])


def test_rows_come_in_the_order_of_the_images_and_do_not_depend_on_their_company(digit_run, photo_files):
    paths = photo_files[::-1]
    together = predict(digit_run, paths, topk=10, batch_size=4, workers=3)
    assert [row.image for row in together] == [str(path) for path in paths]
    alone = [predict(digit_run, path, topk=10)[0] for path in paths]
    assert probabilities(together) == pytest.approx(probabilities(alone), abs=SAME)
    assert np.ptp(probabilities(alone), axis=0).max() > 100 * SAME  # the photographs differ


def test_probabilities_are_those_of_torchvisions_preprocessing(digit_run, photo_files):
    model = load_model(digit_run)
    facts = model.description
    expected = []
    for path in photo_files:
        image = Image.open(path).convert("RGB")
        image = vision.resize(image, facts.eval_resize, vision.InterpolationMode.BILINEAR, antialias=True)
        x = vision.to_tensor(vision.center_crop(image, facts.image_size))
        logits = model.network(vision.normalize(x, facts.mean, facts.std)[None]).logits
        expected.append(logits.double().softmax(1)[0].numpy())
    assert probabilities(predict(digit_run, photo_files, topk=10)) == pytest.approx(
        np.array(expected), abs=5e-3
    )


def kinds():
    """A photograph as people have it."""
    photo = Image.open(io.BytesIO(PHOTO))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "plain.jpg": PHOTO,
        "turned.jpg": encode(photo, quality=90, exif=exif),
        "cmyk.jpg": encode(photo.convert("CMYK"), quality=90),
        "grey.jpg": encode(photo.convert("L"), quality=90),
        "alpha.png": encode(photo.convert("RGBA"), "PNG"),
        "palette.png": encode(photo.convert("P"), "PNG"),
        "named.png": encode(photo, "WEBP", quality=90),
        "x.gif": encode(photo, "GIF"),
    }


def test_any_kind_of_file_is_predicted_as_evaluation_would_if_it_were_converted(digit_run, tmp_path):
    contents = kinds()
    paths = written(tmp_path / "kinds", contents)
    items = [Item(content, 0, name) for name, content in contents.items()]
    convert(Source("folder", ["all"], {"train": items, "val": items}), tmp_path / "shards")
    model = load_model(digit_run)
    shards = Shards(tmp_path / "shards", "val")
    (batch,) = evaluation_batches(shards, model.description.data, batch_size=len(items))
    expected = model.network(batch.x).logits.softmax(1).numpy()
    assert probabilities(predict(digit_run, paths, topk=10)) == pytest.approx(expected, abs=SAME)
    stored = predict(digit_run, tmp_path / "shards" / "val", topk=10)
    assert probabilities(stored) == pytest.approx(expected, abs=SAME)


def test_a_turned_photograph_is_predicted_upright(digit_run, tmp_path):
    photo = Image.open(io.BytesIO(PHOTO))
    exif = Image.Exif()
    exif[0x0112] = 3
    upside_down = photo.transpose(Image.Transpose.ROTATE_180)
    paths = written(
        tmp_path / "turns",
        {
            "upright.jpg": PHOTO,
            "tagged.jpg": encode(upside_down, quality=95, exif=exif),
            "untagged.jpg": encode(upside_down, quality=95),
        },
    )
    upright, tagged, untagged = probabilities(predict(digit_run, paths, topk=10))
    assert tagged == pytest.approx(upright, abs=0.01)
    assert abs(untagged - upright).max() > 0.02


def huge_png():
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    sound = encode(Image.new("RGB", (9, 9)), "PNG")
    return sound[:12] + header + struct.pack(">I", zlib.crc32(header)) + sound[33:]


def test_what_cannot_be_read_is_a_row_with_the_reason_and_spoils_no_other(digit_run, tmp_path):
    middle = len(PHOTO) // 2
    contents = {
        "1.jpg": PHOTO,
        "cut.jpg": PHOTO[:middle],
        "text.jpg": b"<html>404</html>",
        "empty.jpg": b"",
        "huge.png": huge_png(),
        "strip.png": encode(Image.new("RGB", (400_000, 1)), "PNG"),
        "overwritten.jpg": PHOTO[:middle] + bytes(200) + PHOTO[middle + 200 :],  # DALI reads on over it
        "gone.jpg": b"",
        "2.jpg": PHOTO,
    }
    paths = written(tmp_path / "mixed", contents)
    rows = fasticcl.predict(digit_run, paths, topk=10, batch_size=2, device="cpu")
    (tmp_path / "mixed" / "gone.jpg").unlink()  # after the listing, before it is read
    first, *bad, last = rows
    reasons = {row.image.rpartition("/")[2]: row.error for row in bad}
    assert list(reasons) == [*contents][1:-1]
    assert all(row.classes == row.probabilities == () for row in bad)
    assert reasons["text.jpg"] == "not an image"
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["gone.jpg"] == "No such file or directory"
    assert "too many" in reasons["huge.png"]
    assert reasons["strip.png"] == "the aspect ratio of 400000×1 pixels is too extreme to resize"
    assert all(reasons.values())
    alone = probabilities(predict(digit_run, paths[0], topk=10))
    assert probabilities([first, last]) == pytest.approx(np.repeat(alone, 2, axis=0), abs=SAME)


def test_an_image_damaged_in_its_shard_is_a_row_too(digit_run, tmp_path):
    items = [Item(content, 0, f"{i}.jpg") for i, content in enumerate(photographs(3, seed=4))]
    convert(Source("folder", ["all"], {"train": items}), tmp_path)
    index = Shards(tmp_path, "train").index
    with open(tmp_path / "train" / "shard-000000.tar", "r+b") as file:
        file.seek(int(index["offset"][1]) + 9000)
        file.write(b"rot")
    errors = [row.error for row in predict(digit_run, tmp_path / "train")]
    assert errors == [None, "damaged since the conversion", None]


def test_pictures_without_end_are_predicted_as_they_come(digit_run):
    model, asked = load_model(digit_run), Counter()

    def endless():
        for number in itertools.count():
            asked["pictures"] += 1
            yield ImageInput(str(number), lambda: PHOTO)

    found = image_batches(endless(), model.description.data, batch_size=5, threads=2, gpu=None)
    shapes = [(*batch.x.shape, batch.names[0]) for batch in itertools.islice(found, 20)]
    found.close()
    assert shapes == [(5, 3, 16, 16, str(5 * i)) for i in range(20)]
    assert asked["pictures"] < 20 * 5 + 5 * 5  # a few batches ahead


def test_as_many_pictures_lie_in_memory_at_their_full_size_as_there_are_threads(digit_run, monkeypatch):
    lying, most = weakref.WeakSet(), []

    class Pixels(np.ndarray):
        """An array that can be put into a set."""

        __hash__ = object.__hash__

    def decode(content):
        pixels = images.decode(content).view(Pixels)
        lying.add(pixels)
        most.append(len(lying))
        return pixels

    monkeypatch.setattr(batches, "decode", decode)
    data = load_model(digit_run).description.data
    pictures = [ImageInput(str(number), lambda: PHOTO) for number in range(20)]
    found = [*image_batches(pictures, data, batch_size=8, threads=2, gpu=None)]
    assert [len(batch.names) for batch in found] == [8, 8, 4]
    assert len(most) == 20
    assert max(most) <= 2


def test_the_longest_strip_that_is_read_stays_under_the_limit_of_pixels(digit_run):
    data = load_model(digit_run).description.data
    longest = MAX_PIXELS // data.eval_resize**2
    contents = [encode(Image.new("1", (longest + more, 1)), "PNG") for more in (0, 1)]
    pictures = [ImageInput("strip", lambda content=content: content) for content in contents]
    (batch,) = image_batches(pictures, data, batch_size=2, threads=1, gpu=None)
    assert [error is None for error in batch.errors] == [True, False]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": "gone.jpg"}, "gone.jpg does not exist"),
        ({"images": []}, "There are no images"),
        ({"model": "gone"}, "There are no finished weights in gone"),
        ({"topk": 0}, "topk is at least 1, got 0"),
        ({"device": "tpu"}, "engine.device"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_bad_input_is_refused_by_the_call_itself(digit_run, tmp_path, monkeypatch, change, sentence):
    monkeypatch.chdir(tmp_path)
    (photo,) = written(tmp_path / "one", {"1.jpg": PHOTO})
    arguments = {"model": digit_run, "images": photo} | change
    with pytest.raises(UserError, match=sentence):
        fasticcl.predict(**arguments)
