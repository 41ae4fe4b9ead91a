"""What the weights of a run tell beyond its records: class by class, its norms, and what it mistakes."""

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
_WORST, _MISTAKES, _PICTURES, _SIDE = 8, 3, 4, 96


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Picture(_Record):
    """An image of the evaluated split that was mistaken."""

    predicted: int
    png: str
    """Its base64-encoded PNG, at most 96 pixels a side."""
    small: bool
    """Whether the image itself is so small that its pixels should be seen."""


class Confusion(_Record):
    """What one class is mistaken for."""

    label: int
    mistaken: list[tuple[int, int]]
    """The most frequent wrong classes, each with its count."""
    pictures: list[Picture]


class Details(_Record):
    """A finished run, class by class; K classes in the order of the labels."""

    format: int = FORMAT
    weights_sha256: str
    """Of the file of weights that was measured."""
    split: str
    classes: list[str]
    train_counts: list[int]
    seen: list[int]
    """[K] evaluated images."""
    right: dict[str, list[int]]
    """[K] images that are right, by name of the weights: before, after, last, best."""
    weight_norms: dict[str, list[float]]
    """[K] L2 norms of the classifier's weights, by the same names."""
    centroid_norms: list[float] | None
    """[K] L2 norms of the centroids at the end of the representation stage; None: it had none."""
    confusions: list[Confusion]
    """The classes with the lowest accuracy of the last epoch, the worst first."""
    bad_samples: list[str]
    """Training images that could no longer be read, and were replaced by others of their class."""

    @property
    def final(self) -> str:
        """Which weights are those of the last epoch."""
        return "after" if "after" in self.right else "last"

    def accuracy(self, name: str) -> NDArray[np.float64]:
        """Return [K] accuracies in percent; not a number where no image was evaluated."""
        seen = np.array(self.seen, dtype=np.float64)
        seen[seen == 0] = np.nan
        return 100 * np.array(self.right[name]) / seen

    @classmethod
    def read(cls, values: Any, weights: Path) -> Self | None:
        """Return what an earlier report kept, or None where that does not fit these weights."""
        try:
            details = cls.model_validate(values)
        except ValidationError:
            return None
        fits = details.format == FORMAT and weights.is_file()
        return details if fits and details.weights_sha256 == file_sha256(weights) else None


def measure(folder: Path, *, device: str | None = None, workers: int | None = None) -> Details:
    """Evaluate the saved weights of a finished run class by class.

    Args:
        folder: the run folder.
        device: auto, cpu or gpu; None: as the run was started.
        workers: threads; None: as the run was started.

    Raises:
        UserError: no finished run, or its shards are gone.
    """
    saved = open_saved_run(folder, device=device, workers=workers, alone=True)
    train, evaluated = saved.dataset.train, saved.dataset.evaluated
    labels, answers, norms = _answers(saved)
    final = answers["after" if "after" in answers else "last"]
    classes = saved.dataset.num_classes
    right = {
        name: np.bincount(labels[labels == each], minlength=classes).tolist()
        for name, each in answers.items()
    }
    return Details(
        weights_sha256=file_sha256(folder / WEIGHTS),
        split=evaluated.split,
        classes=train.manifest.classes,
        train_counts=train.counts.tolist(),
        seen=np.bincount(labels, minlength=classes).tolist(),
        right=right,
        weight_norms=norms,
        centroid_norms=_centroid_norms(folder / CENTROIDS),
        confusions=_confusions(labels, final, evaluated),
        bad_samples=[train.name(row) for row in saved.bad_rows],
    )


def _answers(
    saved: SavedRun,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]], dict[str, list[float]]]:
    """Return the labels [N] and, by name of the weights, predicted classes [N] and weight norms [K]."""
    labels, answers, norms = np.empty(0, np.int64), {}, {}
    for name, network in saved.networks():
        pairs = [torch.stack(pair).cpu() for pair in predictions(network, saved.batches())]
        labels, answers[name] = torch.cat(pairs, dim=1).numpy()
        norms[name] = network.classifier.weight.detach().norm(dim=1).tolist()
    return labels, answers, norms


def _centroid_norms(path: Path) -> list[float] | None:
    if not path.is_file():
        return None
    return np.linalg.norm(np.load(path, allow_pickle=False), axis=1).tolist()


def _confusions(labels: NDArray[np.int64], predicted: NDArray[np.int64], shards: Shards) -> list[Confusion]:
    """Return the classes with the most mistakes per image; the images are in the order of the index."""
    wrong = labels != predicted
    seen, mistakes = np.bincount(labels), np.bincount(labels[wrong], minlength=labels.max() + 1)
    rate = mistakes / np.maximum(seen, 1)
    worst = [label for label in np.argsort(-rate, kind="stable")[:_WORST].tolist() if mistakes[label]]
    return [
        Confusion(
            label=label,
            mistaken=Counter(predicted[wrong & (labels == label)].tolist()).most_common(_MISTAKES),
            pictures=_pictures(np.flatnonzero(wrong & (labels == label)), predicted, shards),
        )
        for label in worst
    ]


def _pictures(rows: NDArray[np.integer], predicted: NDArray[np.int64], shards: Shards) -> list[Picture]:
    chosen = rows[np.linspace(0, len(rows) - 1, min(_PICTURES, len(rows))).astype(int)]
    images = shards.read(chosen)
    return [
        Picture(
            predicted=int(predicted[row]),
            png=_thumbnail(image.tobytes()),
            small=bool(shards.index[row]["width"] < _SIDE // 2),
        )
        for row, image in zip(chosen, images, strict=True)
    ]


def _thumbnail(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
    packed = io.BytesIO()
    small.save(packed, "PNG")
    return base64.b64encode(packed.getvalue()).decode()
