"""Rows as programs read them back."""

import csv
import io
import json

import pytest

from fasticcl.predict.predictions import Prediction, write_predictions

ROWS = [
    Prediction('a "b", c.jpg', ("cat, tabby", 'the "dog"'), (0.75, 0.125)),
    Prediction("new\nline.jpg", ("ünïcode", "x"), (1.0, 1.17549435e-38)),
    Prediction("bad.jpg", error="cut short, the end is missing"),
]


def written(format):
    file = io.StringIO(newline="")
    assert write_predictions(iter(ROWS), file, format) == (3, 1)
    return file.getvalue()


def test_csv_reads_back_to_the_same_rows():
    found = [*csv.DictReader(io.StringIO(written("csv"), newline=""))]
    expected = [
        (row.image, rank, name, value)
        for row in ROWS[:2]
        for rank, (name, value) in enumerate(zip(row.classes, row.probabilities, strict=True), start=1)
    ]
    parsed = [(row["image"], int(row["rank"]), row["class"], float(row["probability"])) for row in found[:-1]]
    assert parsed == [(*fields, pytest.approx(value, rel=1e-6)) for *fields, value in expected]
    empty = dict.fromkeys(("rank", "class", "probability"), "")
    assert found[-1] == {"image": "bad.jpg", "error": "cut short, the end is missing"} | empty


def test_jsonl_reads_back_to_the_same_rows():
    found = [json.loads(line) for line in written("jsonl").splitlines()]
    for read, row in zip(found, ROWS, strict=True):
        assert read["probabilities"] == pytest.approx(row.probabilities, rel=1e-6)
        assert read | {"probabilities": row.probabilities, "classes": tuple(read["classes"])} == vars(row)


def test_the_table_has_a_line_for_every_image_in_percent():
    lines = written("table").replace("new\nline", "new line").splitlines()
    assert lines[0].split("  ") == ['a "b", c.jpg', "cat, tabby 75.0%", 'the "dog" 12.5%']
    assert lines[2].split() == ["bad.jpg", "error:", "cut", "short,", "the", "end", "is", "missing"]


@pytest.mark.parametrize("format", ["table", "csv", "jsonl"])
def test_a_row_is_written_before_the_next_is_asked_for(format):
    file = io.StringIO()

    def rows():
        for row in ROWS:
            yield row
            assert row.image.partition("\n")[0].replace('"', "") in file.getvalue().replace('"', "").replace(
                "\\", ""
            )

    write_predictions(rows(), file, format)
