"""Predictions as rows: for people a line each, for programs CSV and JSON Lines."""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TextIO

Format = Literal["table", "csv", "jsonl"]


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture."""

    image: str
    """Its path, in shards and tars followed by what it is called there."""
    classes: tuple[str, ...] = ()
    """The likeliest classes, the best first; none where there is an error."""
    probabilities: tuple[float, ...] = ()
    """The probability of each."""
    error: str | None = None
    """Why it could not be read."""


def write_rows(predictions: Iterable[Prediction], file: TextIO, format: Format) -> tuple[int, int]:
    """Write each prediction as it comes; return how many there were, and how many of them errors.

    - table: a line for every picture.
    - csv: the columns image, rank (from 1), class, probability and error; a line for every class.
    - jsonl: an object with the fields of `Prediction` for every picture.
    """
    write = {"table": _table, "csv": _csv, "jsonl": _jsonl}[format](file)
    images = errors = 0
    for prediction in predictions:
        write(prediction)
        images += 1
        errors += prediction.error is not None
    return images, errors


def _table(file: TextIO) -> Callable[[Prediction], None]:
    width = 0

    def write(prediction: Prediction) -> None:
        nonlocal width
        width = max(width, len(prediction.image))  # of those so far: rows do not wait for the last
        found = zip(prediction.classes, prediction.probabilities, strict=True)
        text = "  ".join(f"{name} {value:.1%}" for name, value in found)
        error = prediction.error and f"error: {prediction.error}"
        file.write(f"{prediction.image:<{width}}  {error or text}\n")

    return write


def _csv(file: TextIO) -> Callable[[Prediction], None]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "probability", "error"))

    def write(prediction: Prediction) -> None:
        image, error = prediction.image, prediction.error
        found = zip(prediction.classes, prediction.probabilities, strict=True)
        rows = [(image, rank, name, _short(value), "") for rank, (name, value) in enumerate(found, start=1)]
        writer.writerows(rows if error is None else [(image, "", "", "", error)])

    return write


def _jsonl(file: TextIO) -> Callable[[Prediction], None]:
    def write(prediction: Prediction) -> None:
        fields = vars(prediction) | {"probabilities": [*map(_short, prediction.probabilities)]}
        file.write(json.dumps(fields) + "\n")

    return write


def _short(probability: float) -> float:
    """Return a float32 without the digits that it does not have."""
    return float(f"{probability:.7g}")
