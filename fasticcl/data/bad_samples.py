"""Training images that can no longer be read, and what stands in for each."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from fasticcl.data import graph
from fasticcl.data.plan import Phase, Plan, StreamPlan
from fasticcl.errors import TrainingFailed
from fasticcl.shards.reader import DamagedImages, Shards

_LISTED = 20  # names in the sentence that ends training


class BadSamples:
    """The unreadable images found so far.

    What stands in for one is a function of the plan and of what lies on the disk, not of when it was
    found, so a resumed run sees the same.

    Args:
        shards: the training split.
        plan: draws the substitutes; its ``max_bad_samples`` says how many are borne.
        warn: called once for each with a sentence that names it.
    """

    def __init__(self, shards: Shards, plan: Plan, warn: Callable[[str], None]) -> None:
        self.shards, self.plan = shards, plan
        self._warn = warn
        self._rows: set[int] = set()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[int]:
        """Their rows of the index, sorted."""
        return sorted(self._rows)

    def report(self, rows: Iterable[int], reason: str) -> None:
        """Note images that cannot be read.

        Raises:
            TrainingFailed: they are too many.
        """
        for row in sorted(set(rows) - self._rows):
            self._rows.add(row)
            self._warn(f"warning  {self.shards.name(row)}: {reason}; another image of its class replaces it")
        self._check_count()

    def merge(self, rows: Iterable[int]) -> None:
        """Note images that another rank, or an earlier process of this run, found and named.

        Raises:
            TrainingFailed: they are too many.
        """
        self._rows.update(rows)
        self._check_count()

    def _check_count(self) -> None:
        if len(self) > (most := self.plan.data.max_bad_samples):
            names = [self.shards.name(row) for row in self.rows[:_LISTED]]
            raise TrainingFailed(
                f"{len(self)} images cannot be read, more than data.max_bad_samples ({most}): "
                f"{', '.join(names)}{', …' if len(self) > _LISTED else ''}; "
                f"convert {self.shards.folder.parent} again, or raise it."
            )

    def find_undecodable(self, rows: NDArray[np.integer], error: RuntimeError) -> None:
        """Note which of a failed batch's images, as they were fed, cannot be decoded.

        Raises:
            TrainingFailed: all can, so it failed for another reason; or those that cannot are too many.
        """
        # Some may be known by now, from another rank: then the batch was fed before.
        found = [
            row for row in np.unique(rows).tolist() if row in self._rows or not _decodes(self.shards, row)
        ]
        if not found:
            raise TrainingFailed(f"A batch could not be decoded: {str(error).splitlines()[0]}") from error
        self.report(found, "cannot be decoded")

    def substitute_in(self, stream: StreamPlan, phase: Phase, epoch: int, step: int) -> StreamPlan:
        """Return a stream's plan with readable images only, as far as is known.

        Raises:
            TrainingFailed: a class has no readable image left.
        """
        for place, row in enumerate(stream.rows.tolist()):
            if row in self._rows:
                stream = stream.replaced(place, self._substitute(row, phase, epoch, step))
        return stream

    def _substitute(self, row: int, phase: Phase, epoch: int, step: int) -> StreamPlan:
        label = int(self.plan.index["label"][row])
        if self._rows.issuperset(self.plan.rows_of(label).tolist()):
            raise TrainingFailed(
                f"No image of the class {self.shards.manifest.classes[label]!r} can be read any more; "
                f"convert {self.shards.folder.parent} again."
            )
        drawn = (self.plan.substitute(row, phase, epoch, step, attempt) for attempt in itertools.count())
        return next(one for one in drawn if int(one.rows[0]) not in self._rows)


def undecodable(shards: Shards, rows: NDArray[np.integer]) -> list[str]:
    """Return the names of those images that cannot be decoded."""
    return [shards.name(row) for row in rows.tolist() if not _decodes(shards, row)]


def _decodes(shards: Shards, row: int) -> bool:
    try:
        return graph.decodes(shards.read(np.array([row]))[0])
    except DamagedImages:  # since it was fed
        return False
