"""Predictions compared with evaluation, for various image formats and next to unreadable images."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as vision

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.engine.run.weights import load_model
from fasticcl.errors import UserError
from fasticcl.method.network import Network
from fasticcl.shards.reader import Shards
from tests.support.images import encode, photographs

PHOTO = photographs(1, seed=5)[0]
TOLERANCE = 1e-5  # between batches of different sizes


def predict(run, images, **options):
    return [*fasticcl.predict(run, images, device="cpu", **options)]


def probabilities(predictions, num_classes=10):
    """Return probabilities [N, K] in the order of the classes, which are named 0 to 9."""
    matrix = np.full((len(predictions), num_classes), np.nan)
    for row, prediction in zip(matrix, predictions, strict=True):
        assert prediction.error is None
        row[[int(name) for name in prediction.classes]] = prediction.probabilities
    return matrix


def write_images(folder, contents):
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def photo_files(tmp_path):
    contents = photographs(7, seed=3)
    return write_images(tmp_path / "photos", {f"{i}.jpg": content for i, content in enumerate(contents)})


def test_accuracy_of_predictions_equals_the_evaluation_report(digit_run, digit_shards):
    report = fasticcl.evaluate(digit_run)
    shards = Shards(digit_shards, "test")
    truth = [shards.manifest.classes[label] for label in shards.index["label"]]
    for best, row in ((False, "after"), (True, "best")):
        predictions = predict(digit_run, digit_shards / "test", topk=1, best=best)
        correct = [prediction.classes == (name,) for prediction, name in zip(predictions, truth, strict=True)]
        assert 100 * np.mean(correct) == pytest.approx(report.rows[row]["val/top1"], abs=1e-9)
    assert report.rows["after"]["val/top1"] > 30  # well above chance


def test_classes_are_sorted_by_probability_and_probabilities_sum_to_one(digit_run, photo_files):
    for all_classes, top3 in zip(
        predict(digit_run, photo_files, topk=99), predict(digit_run, photo_files, topk=3), strict=True
    ):
        assert sorted(all_classes.classes) == [*"0123456789"]
        assert sum(all_classes.probabilities) == pytest.approx(1, abs=1e-6)
        assert list(all_classes.probabilities) == sorted(all_classes.probabilities, reverse=True)
        assert top3.classes == all_classes.classes[:3]
        assert top3.probabilities == all_classes.probabilities[:3]


def test_predictions_keep_the_order_of_images_and_do_not_depend_on_the_batch(digit_run, photo_files):
    paths = photo_files[::-1]
    batched = predict(digit_run, paths, topk=10, batch_size=4, workers=3)
    assert [prediction.image for prediction in batched] == [str(path) for path in paths]
    single = [predict(digit_run, path, topk=10)[0] for path in paths]
    assert probabilities(batched) == pytest.approx(probabilities(single), abs=TOLERANCE)
    assert np.ptp(probabilities(single), axis=0).max() > 100 * TOLERANCE  # the photographs differ


def test_probabilities_match_preprocessing_with_torchvision(digit_run, photo_files):
    model = load_model(digit_run)
    description = model.description
    expected = []
    for path in photo_files:
        image = Image.open(path).convert("RGB")
        image = vision.resize(
            image, description.eval_resize, vision.InterpolationMode.BILINEAR, antialias=True
        )
        x = vision.to_tensor(vision.center_crop(image, description.image_size))
        logits = model.network(vision.normalize(x, description.mean, description.std)[None]).logits
        expected.append(logits.double().softmax(1)[0].numpy())
    assert probabilities(predict(digit_run, photo_files, topk=10)) == pytest.approx(
        np.array(expected), abs=5e-3
    )


def photograph_variants():
    """Return one photograph in several file formats and colour modes, by file name."""
    photo = Image.open(io.BytesIO(PHOTO))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "plain.jpg": PHOTO,
        "rotated.jpg": encode(photo, quality=90, exif=exif),
        "cmyk.jpg": encode(photo.convert("CMYK"), quality=90),
        "grey.jpg": encode(photo.convert("L"), quality=90),
        "alpha.png": encode(photo.convert("RGBA"), "PNG"),
        "palette.png": encode(photo.convert("P"), "PNG"),
        "wrong-suffix.png": encode(photo, "WEBP", quality=90),
        "x.gif": encode(photo, "GIF"),
    }


def test_predictions_equal_evaluation_of_the_converted_images(digit_run, tmp_path):
    contents = photograph_variants()
    paths = write_images(tmp_path / "variants", contents)
    items = [Item(content, 0, name) for name, content in contents.items()]
    convert(Source("folder", ["all"], {"train": items, "val": items}), tmp_path / "shards")
    model = load_model(digit_run)
    shards = Shards(tmp_path / "shards", "val")
    (batch,) = evaluation_batches(shards, model.description.data, batch_size=len(items))
    expected = model.network(batch.x).logits.softmax(1).numpy()
    assert probabilities(predict(digit_run, paths, topk=10)) == pytest.approx(expected, abs=TOLERANCE)
    from_shards = predict(digit_run, tmp_path / "shards" / "val", topk=10)
    assert probabilities(from_shards) == pytest.approx(expected, abs=TOLERANCE)


def test_exif_orientation_is_applied(digit_run, tmp_path):
    photo = Image.open(io.BytesIO(PHOTO))
    exif = Image.Exif()
    exif[0x0112] = 3
    upside_down = photo.transpose(Image.Transpose.ROTATE_180)
    paths = write_images(
        tmp_path / "orientations",
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
    """Return a small PNG whose header declares 100,000×100,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    valid = encode(Image.new("RGB", (9, 9)), "PNG")
    return valid[:12] + header + struct.pack(">I", zlib.crc32(header)) + valid[33:]


def test_unreadable_image_is_reported_and_does_not_affect_others(digit_run, tmp_path):
    middle = len(PHOTO) // 2
    contents = {
        "1.jpg": PHOTO,
        "truncated.jpg": PHOTO[:middle],
        "text.jpg": b"<html>404</html>",
        "empty.jpg": b"",
        "huge.png": huge_png(),
        "strip.png": encode(Image.new("RGB", (400_000, 1)), "PNG"),
        "overwritten.jpg": PHOTO[:middle] + bytes(200) + PHOTO[middle + 200 :],  # DALI decodes past it
        "gone.jpg": b"",
        "2.jpg": PHOTO,
    }
    paths = write_images(tmp_path / "mixed", contents)
    predictions = fasticcl.predict(digit_run, paths, topk=10, batch_size=2, device="cpu")
    (tmp_path / "mixed" / "gone.jpg").unlink()  # after it is listed and before it is read
    first, *unreadable, last = predictions
    reasons = {prediction.image.rpartition("/")[2]: prediction.error for prediction in unreadable}
    assert list(reasons) == [*contents][1:-1]
    assert all(prediction.classes == prediction.probabilities == () for prediction in unreadable)
    assert reasons["text.jpg"] == "not an image"
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["gone.jpg"] == "No such file or directory"
    assert "size limit" in reasons["huge.png"]
    assert reasons["strip.png"] == "the aspect ratio of 400000×1 pixels is too extreme to resize"
    assert all(reasons.values())
    single = probabilities(predict(digit_run, paths[0], topk=10))
    assert probabilities([first, last]) == pytest.approx(np.repeat(single, 2, axis=0), abs=TOLERANCE)


def test_image_damaged_in_its_shard_is_reported(digit_run, tmp_path):
    items = [Item(content, 0, f"{i}.jpg") for i, content in enumerate(photographs(3, seed=4))]
    convert(Source("folder", ["all"], {"train": items}), tmp_path)
    index = Shards(tmp_path, "train").index
    with open(tmp_path / "train" / "shard-000000.tar", "r+b") as file:
        file.seek(int(index["offset"][1]) + 9000)
        file.write(b"rot")
    errors = [prediction.error for prediction in predict(digit_run, tmp_path / "train")]
    assert errors == [None, "damaged since the conversion", None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "gone.jpg"}, "gone.jpg does not exist"),
        ({"images": []}, "There are no images"),
        ({"model": "gone"}, "There are no finished weights in gone"),
        ({"topk": 0}, "topk must be at least 1, got 0"),
        ({"device": "tpu"}, "engine.device"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_invalid_arguments_raise_before_iteration(digit_run, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (photo,) = write_images(tmp_path / "one", {"1.jpg": PHOTO})
    arguments = {"model": digit_run, "images": photo} | change
    with pytest.raises(UserError, match=message):
        fasticcl.predict(**arguments)


def test_convolutions_do_not_use_tf32(digit_run, photo_files, monkeypatch):
    precisions, forward = [], Network.forward

    def recorded(self, images):
        precisions.append(torch.backends.cudnn.conv.fp32_precision)
        return forward(self, images)

    monkeypatch.setattr(Network, "forward", recorded)
    predict(digit_run, photo_files)
    assert set(precisions) == {"ieee"}
