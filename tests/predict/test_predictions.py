"""Round trips of predictions through the output formats."""

import csv
import io
import json

import pytest

from fasticcl.predict.predictions import Prediction, write_predictions

PREDICTIONS = [
    Prediction('a "b", c.jpg', ("cat, tabby", 'the "dog"'), (0.75, 0.125)),
    Prediction("new\nline.jpg", ("ünïcode", "x"), (1.0, 1.17549435e-38)),
    Prediction("bad.jpg", error="truncated, the end is missing"),
]


def formatted(format):
    file = io.StringIO(newline="")
    assert write_predictions(iter(PREDICTIONS), file, format) == (3, 1)
    return file.getvalue()


def test_csv_round_trip():
    rows = [*csv.DictReader(io.StringIO(formatted("csv"), newline=""))]
    expected = [
        (prediction.image, rank, name, probability)
        for prediction in PREDICTIONS[:2]
        for rank, (name, probability) in enumerate(
            zip(prediction.classes, prediction.probabilities, strict=True), start=1
        )
    ]
    parsed = [(row["image"], int(row["rank"]), row["class"], float(row["probability"])) for row in rows[:-1]]
    assert parsed == [(*fields, pytest.approx(probability, rel=1e-6)) for *fields, probability in expected]
    empty = dict.fromkeys(("rank", "class", "probability"), "")
    assert rows[-1] == {"image": "bad.jpg", "error": "truncated, the end is missing"} | empty


def test_jsonl_round_trip():
    rows = [json.loads(line) for line in formatted("jsonl").splitlines()]
    for row, prediction in zip(rows, PREDICTIONS, strict=True):
        assert row["probabilities"] == pytest.approx(prediction.probabilities, rel=1e-6)
        exact = {"probabilities": prediction.probabilities, "classes": tuple(row["classes"])}
        assert row | exact == vars(prediction)


def test_table_has_one_line_per_image_with_percentages():
    lines = formatted("table").replace("new\nline", "new line").splitlines()
    assert lines[0].split("  ") == ['a "b", c.jpg', "cat, tabby 75.0%", 'the "dog" 12.5%']
    assert lines[2].split() == ["bad.jpg", "error:", "truncated,", "the", "end", "is", "missing"]


@pytest.mark.parametrize("format", ["table", "csv", "jsonl"])
def test_each_prediction_is_written_before_the_next_is_requested(format):
    file = io.StringIO()

    def without_escapes(text):
        return text.replace('"', "").replace("\\", "")

    def predictions():
        for prediction in PREDICTIONS:
            yield prediction
            first_line = prediction.image.partition("\n")[0]
            assert without_escapes(first_line) in without_escapes(file.getvalue())

    write_predictions(predictions(), file, format)
