"""Per-class results of a finished run, computed from its weights: accuracy, norms and confusions."""

import base64
import io
from collections import Counter
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from fasticcl.engine.evaluate import predictions
from fasticcl.engine.results import SavedRun, open_saved_run
from fasticcl.engine.run.folder import CENTROIDS
from fasticcl.engine.run.weights import WEIGHTS
from fasticcl.files import file_sha256
from fasticcl.shards.reader import Shards

FORMAT = 1
# Maximum number of confused classes, and of wrong predictions and example images per class.
_CLASSES, _CONFUSED_WITH, _EXAMPLES = 8, 3, 4
_THUMBNAIL = 96  # pixels a side


class _Model(BaseModel):
    """Base class of the parts of ``report.json``. Renaming a field requires a new FORMAT."""

    model_config = ConfigDict(frozen=True)


class ExampleImage(_Model):
    """A misclassified image of the evaluated split."""

    predicted: int
    png: str
    """Base64-encoded PNG thumbnail of at most 96 pixels a side."""
    small: bool
    """True if the image has so few pixels that it should be enlarged without smoothing."""


class Confusion(_Model):
    """The most frequent misclassifications of one class."""

    label: int
    mistaken: list[tuple[int, int]]
    """The most frequent wrong predictions as (class, number of images)."""
    pictures: list[ExampleImage]


class ClassAnalysis(_Model):
    """Per-class results of a finished run, for K classes in label order."""

    format: int = FORMAT
    weights_sha256: str
    """Checksum of the analysed weights file."""
    split: str
    """The evaluated split."""
    classes: list[str]
    """[K] class names."""
    train_counts: list[int]
    """[K] training images."""
    seen: list[int]
    """[K] evaluated images."""
    right: dict[str, list[int]]
    """[K] correctly classified images, by name of the weights: before, after, last, best."""
    weight_norms: dict[str, list[float]]
    """[K] L2 norms of the classifier weights, by the same names."""
    centroid_norms: list[float] | None
    """[K] L2 norms of the centroids at the end of the representation stage. None for methods without them."""
    confusions: list[Confusion]
    """The classes with the lowest accuracy at the last epoch, in ascending order of accuracy."""
    bad_samples: list[str]
    """Unreadable training images, which were replaced by others of their class."""

    @property
    def final_weights(self) -> str:
        """Name of the weights of the last epoch."""
        return "after" if "after" in self.right else "last"

    def accuracy(self, name: str) -> NDArray[np.float64]:
        """Return the accuracy [K] of the named weights in percent, NaN for classes without images."""
        seen = np.array(self.seen, dtype=np.float64)
        seen[seen == 0] = np.nan
        return 100 * np.array(self.right[name]) / seen

    @classmethod
    def stored(cls, values: Any, weights: Path) -> Self | None:
        """Return the analysis stored in an earlier report, or None if it does not fit the weights file."""
        try:
            analysis = cls.model_validate(values)
        except ValidationError:
            return None
        usable = analysis.format == FORMAT and weights.is_file()
        return analysis if usable and analysis.weights_sha256 == file_sha256(weights) else None


def evaluate_classes(folder: Path, *, device: str | None = None, workers: int | None = None) -> ClassAnalysis:
    """Evaluate the saved weights of a finished run per class.

    Args:
        folder: the run folder.
        device: auto, cpu or gpu. None uses the run's setting.
        workers: number of threads. None uses the run's setting.

    Raises:
        UserError: the folder holds no finished run, or the shards are missing.
    """
    saved = open_saved_run(folder, device=device, workers=workers, alone=True)
    train, evaluated = saved.dataset.train, saved.dataset.evaluated
    labels, predicted, norms = _predict(saved)
    num_classes = saved.dataset.num_classes
    right = {
        name: np.bincount(labels[labels == classes], minlength=num_classes).tolist()
        for name, classes in predicted.items()
    }
    final = predicted["after" if "after" in predicted else "last"]
    return ClassAnalysis(
        weights_sha256=file_sha256(folder / WEIGHTS),
        split=evaluated.split,
        classes=train.manifest.classes,
        train_counts=train.counts.tolist(),
        seen=np.bincount(labels, minlength=num_classes).tolist(),
        right=right,
        weight_norms=norms,
        centroid_norms=_centroid_norms(folder / CENTROIDS),
        confusions=_confusions(labels, final, evaluated),
        bad_samples=[train.name(row) for row in saved.bad_rows],
    )


def _predict(
    saved: SavedRun,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]], dict[str, list[float]]]:
    """Return the labels [N] and, by name of the weights, predicted classes [N] and weight norms [K]."""
    labels, predicted, norms = np.empty(0, np.int64), {}, {}
    batches = saved.batches()
    for name, network in saved.networks():
        pairs = [torch.stack(pair).cpu() for pair in predictions(network, batches, saved.machine)]
        labels, predicted[name] = torch.cat(pairs, dim=1).numpy()
        norms[name] = network.classifier.weight.detach().norm(dim=1).tolist()
    return labels, predicted, norms


def _centroid_norms(path: Path) -> list[float] | None:
    if not path.is_file():
        return None
    return np.linalg.norm(np.load(path, allow_pickle=False), axis=1).tolist()


def _confusions(labels: NDArray[np.int64], predicted: NDArray[np.int64], shards: Shards) -> list[Confusion]:
    """Return the classes with the highest error rates. Labels [N] and predictions [N] are in index order."""
    wrong = labels != predicted
    seen, errors = np.bincount(labels), np.bincount(labels[wrong], minlength=labels.max() + 1)
    rates = errors / np.maximum(seen, 1)
    worst = [label for label in np.argsort(-rates, kind="stable")[:_CLASSES].tolist() if errors[label]]
    return [
        Confusion(
            label=label,
            mistaken=Counter(predicted[wrong & (labels == label)].tolist()).most_common(_CONFUSED_WITH),
            pictures=_examples(np.flatnonzero(wrong & (labels == label)), predicted, shards),
        )
        for label in worst
    ]


def _examples(rows: NDArray[np.integer], predicted: NDArray[np.int64], shards: Shards) -> list[ExampleImage]:
    chosen = rows[np.linspace(0, len(rows) - 1, min(_EXAMPLES, len(rows))).astype(int)]
    return [
        ExampleImage(
            predicted=int(predicted[row]),
            png=_thumbnail(content.tobytes()),
            small=bool(shards.index[row]["width"] < _THUMBNAIL // 2),
        )
        for row, content in zip(chosen, shards.read(chosen), strict=True)
    ]


def _thumbnail(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        thumbnail = image.convert("RGB")
        thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
    encoded = io.BytesIO()
    thumbnail.save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()
