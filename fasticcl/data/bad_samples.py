"""Unreadable training images and their substitutes."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from fasticcl.data.dali.decoding import Decoder, undecodable
from fasticcl.data.dali.errors import BatchFailed
from fasticcl.data.plan import Phase, Plan, StreamPlan
from fasticcl.errors import TrainingFailed
from fasticcl.shards.reader import DamagedImages, Shards

_MAX_NAMES = 20  # maximum number of image names in an error message


class BadSamples:
    """The unreadable images found so far.

    The substitute of an image depends only on the plan and on the files, not on when the image was found.
    A resumed run therefore sees the same substitutes.

    Args:
        shards: the training split.
        plan: draws the substitutes. Its ``max_bad_samples`` limits the number of unreadable images.
        warn: called once per unreadable image with a message that names it.
    """

    def __init__(self, shards: Shards, plan: Plan, warn: Callable[[str], None]) -> None:
        self.shards, self.plan = shards, plan
        self._warn = warn
        self._rows: set[int] = set()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[int]:
        """Sorted index rows of the unreadable images."""
        return sorted(self._rows)

    def report(self, rows: Iterable[int], reason: str) -> None:
        """Add unreadable images that this process found, with a warning for each new one.

        Raises:
            TrainingFailed: more images than ``max_bad_samples`` are unreadable.
        """
        for row in sorted(set(rows) - self._rows):
            self._rows.add(row)
            self._warn(f"warning  {self.shards.name(row)}: {reason}, replaced by another image of its class")
        self._check_count()

    def leave_out(self, rows: Iterable[int]) -> None:
        """Add unreadable images where they need no substitute, with a warning for each new one.

        Raises:
            TrainingFailed: more images than ``max_bad_samples`` or all images of a class are unreadable.
        """
        for row in sorted(set(rows) - self._rows):
            self._rows.add(row)
            self._warn(f"warning  {self.shards.name(row)} cannot be read and is left out")
            self._check_class(row)
        self._check_count()

    def merge(self, rows: Iterable[int]) -> None:
        """Add images that another rank, or an earlier process of this run, has already reported.

        Raises:
            TrainingFailed: more images than ``max_bad_samples`` are unreadable.
        """
        self._rows.update(rows)
        self._check_count()

    def _check_count(self) -> None:
        if len(self) > (limit := self.plan.data.max_bad_samples):
            names = [self.shards.name(row) for row in self.rows[:_MAX_NAMES]]
            raise TrainingFailed(
                f"{len(self)} images cannot be read, more than data.max_bad_samples ({limit}): "
                f"{', '.join(names)}{', …' if len(self) > _MAX_NAMES else ''}. "
                f"Convert {self.shards.folder.parent} again, or raise data.max_bad_samples."
            )

    def find_undecodable(self, rows: NDArray[np.integer], decoder: Decoder, error: BatchFailed) -> None:
        """Report the images of a failed batch that cannot be decoded.

        Args:
            rows: rows of the images that were fed.
            decoder: the decoder of the pipeline that failed.
            error: the error of the batch.

        Raises:
            BatchFailed: ``error``, if all images can be decoded.
            TrainingFailed: more images than ``max_bad_samples`` are unreadable, or DALI failed for another
                reason than an image.
        """
        # Another rank may have reported some of them after the batch was fed.
        known = np.intersect1d(rows, self.rows)
        found = unreadable_rows(self.shards, np.setdiff1d(rows, known), decoder)
        if not found and not len(known):
            raise error
        self.report(found, "cannot be decoded")

    def substitute_in(self, stream: StreamPlan, phase: Phase, epoch: int, step: int) -> StreamPlan:
        """Return the plan of a stream with substitutes for all images known to be unreadable.

        Raises:
            TrainingFailed: a class has no readable image left.
        """
        for position, row in enumerate(stream.rows.tolist()):
            if row in self._rows:
                stream = stream.with_image(position, self._substitute(row, phase, epoch, step))
        return stream

    def _substitute(self, row: int, phase: Phase, epoch: int, step: int) -> StreamPlan:
        self._check_class(row)
        substitutes = (
            self.plan.substitute(row, phase, epoch, step, attempt) for attempt in itertools.count()
        )
        return next(image for image in substitutes if int(image.rows[0]) not in self._rows)

    def _check_class(self, row: int) -> None:
        """Raise TrainingFailed if no image of the class of an image is readable."""
        label = int(self.plan.index["label"][row])
        if self._rows.issuperset(self.plan.rows_of(label).tolist()):
            raise TrainingFailed(
                f"The class {self.shards.manifest.classes[label]!r} has no readable image left. "
                f"Convert {self.shards.folder.parent} again."
            )


class UnreadableImages(TrainingFailed):
    """Images that cannot be read and that have no substitute, because they are evaluated."""


def unreadable_rows(shards: Shards, rows: NDArray[np.integer], decoder: Decoder) -> list[int]:
    """Return the rows of the images that are damaged or cannot be decoded, sorted.

    Raises:
        TrainingFailed: DALI failed for another reason than an image.
    """
    rows = np.unique(rows)
    try:
        images = shards.graph_input(rows)
    except DamagedImages as error:  # damaged after they were fed
        others = np.setdiff1d(rows, error.rows)
        return sorted([*error.rows, *unreadable_rows(shards, others, decoder)])
    return rows[undecodable(images, decoder)].tolist()
