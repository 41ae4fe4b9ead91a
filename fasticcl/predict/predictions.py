"""Predictions, written as a readable table, CSV or JSON Lines."""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TextIO

OutputFormat = Literal["table", "csv", "jsonl"]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, or the reason why it could not be read."""

    image: str
    """Path of the image. For shards and tar archives, the path followed by the name inside."""
    classes: tuple[str, ...] = ()
    """The most probable classes in descending order, or empty if there is an error."""
    probabilities: tuple[float, ...] = ()
    """The probability of each class in ``classes``."""
    error: str | None = None
    """Reason why the image could not be read, or None."""


def write_predictions(
    predictions: Iterable[Prediction], file: TextIO, format: OutputFormat
) -> tuple[int, int]:
    """Write each prediction as soon as it is available, and return the numbers of images and of errors.

    - table: one line per image.
    - csv: the columns image, rank (from 1), class, probability and error, with one line per class.
    - jsonl: one object per image, with the fields of `Prediction`.
    """
    write = {"table": _table_writer, "csv": _csv_writer, "jsonl": _jsonl_writer}[format](file)
    images = errors = 0
    for prediction in predictions:
        write(prediction)
        images += 1
        errors += prediction.error is not None
    return images, errors


def _table_writer(file: TextIO) -> Callable[[Prediction], None]:
    width = 0

    def write(prediction: Prediction) -> None:
        nonlocal width
        width = max(width, len(prediction.image))  # of the names so far, because lines are not delayed
        ranking = zip(prediction.classes, prediction.probabilities, strict=True)
        text = "  ".join(f"{name} {probability:.1%}" for name, probability in ranking)
        error = prediction.error and f"error: {prediction.error}"
        file.write(f"{prediction.image:<{width}}  {error or text}\n")

    return write


def _csv_writer(file: TextIO) -> Callable[[Prediction], None]:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "probability", "error"))

    def write(prediction: Prediction) -> None:
        image, error = prediction.image, prediction.error
        ranking = zip(prediction.classes, prediction.probabilities, strict=True)
        rows = [
            (image, rank, name, _float32_digits(probability), "")
            for rank, (name, probability) in enumerate(ranking, start=1)
        ]
        writer.writerows(rows if error is None else [(image, "", "", "", error)])

    return write


def _jsonl_writer(file: TextIO) -> Callable[[Prediction], None]:
    def write(prediction: Prediction) -> None:
        fields = vars(prediction) | {"probabilities": [*map(_float32_digits, prediction.probabilities)]}
        file.write(json.dumps(fields) + "\n")

    return write


def _float32_digits(probability: float) -> float:
    """Round to the seven significant digits of a float32."""
    return float(f"{probability:.7g}")
