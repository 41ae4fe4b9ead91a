"""The plan: every random choice of a training step, as a pure function of (seed, phase, epoch, step).

Which two images, which crop windows, flips, colour factors and which λ are all drawn here, for the
global batch, from the counter-based generator Philox, and then sliced by rank. Nothing else in the
package holds random state, so any batch can be drawn again, in any order, on any number of ranks.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data.crops import evaluation_crop, resized_crop_windows, whole
from fasticcl.data.sampling import AliasTable, class_probabilities, permute

Phase = Literal["warmup", "interpolative", "rebalance"]
PHASES: tuple[Phase, ...] = ("warmup", "interpolative", "rebalance")

# What a generator is for. Each purpose has its own stream of numbers, so that switching one kind of
# draw on or off leaves the others as they were.
_ORDER, _DRAW, _AUGMENT_AGNOSTIC, _AUGMENT_AWARE, _LAMBDA, _SUBSTITUTE = range(6)
_NONE = np.empty(0, dtype=np.int64)
_FEISTEL_ROUNDS = 8
_ORDERED = (
    1024  # images whose order is computed at once: NumPy's calls cost more than what they do to a batch
)


@dataclass(frozen=True)
class StreamPlan:
    """B images of one stream and what happens to each; every array has B rows."""

    rows: NDArray[np.int64]
    """[B] rows of the index."""
    labels: NDArray[np.int64]
    """[B] class of each image."""
    windows: NDArray[np.int32]
    """[B, 4] top, left, height, width that are decoded, in pixels of the stored image."""
    sizes: NDArray[np.float32]
    """[B, 2] height, width in pixels to which the window is resized."""
    cuts: NDArray[np.int32]
    """[B, 2] top, left of the final square in the resized window; beyond its edge lies black padding."""
    flips: NDArray[np.int32]
    """[B] 1 where the image is mirrored."""
    colors: NDArray[np.float32]
    """[B, 3] factors of brightness, contrast and saturation."""

    def __getitem__(self, part: slice) -> "StreamPlan":
        return StreamPlan(*(getattr(self, name)[part] for name in self.__dataclass_fields__))

    def replaced(self, place: int, by: "StreamPlan") -> "StreamPlan":
        """Return this plan with the one image of another in a place."""
        fields = {name: getattr(self, name).copy() for name in self.__dataclass_fields__}
        for name, values in fields.items():
            values[place] = getattr(by, name)[0]
        return StreamPlan(**fields)


@dataclass(frozen=True)
class BatchPlan:
    """One step's choices; a stream that its phase does not use is None."""

    agnostic: StreamPlan | None
    """The class-agnostic stream (x_h)."""
    aware: StreamPlan | None
    """The class-aware stream (x_t)."""
    lam: NDArray[np.float32] | None
    """[B] λ of equation 3; all equal when it is drawn per batch."""

    @property
    def streams(self) -> list[StreamPlan]:
        """The streams that the phase uses, the class-agnostic one first."""
        return [stream for stream in (self.agnostic, self.aware) if stream is not None]


class Plan:
    """The random choices of a run over one training index.

    Args:
        index: structured array with fields label, height and width, whose rows are sorted by label;
            it may be memory-mapped, only the drawn rows are touched.
        counts: [K] images per class; their sum is the length of the index.
        data: the settings of sections 3.2 and 4.3.
        batch_size: B, images per stream in the global batch.
        seed: seed of the run.
        rebalance_gamma: γ' of the class-aware stream in the rebalancing stage.
        holdout_rows: rows of the index that are never drawn, sorted; each class keeps at least one row.
            Equation 2 counts all images of a class, including these.
        rank, world_size: this process's slice of every global batch.

    Raises:
        ValueError: a batch larger than the images that can be drawn or not divisible among the ranks, or a
            class without images.
    """

    def __init__(
        self,
        index: NDArray[np.void],
        counts: NDArray[np.integer],
        data: Data,
        *,
        batch_size: int,
        seed: int,
        rebalance_gamma: float = 1.0,
        holdout_rows: NDArray[np.int64] = _NONE,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size > len(index) - len(holdout_rows):
            raise ValueError(
                f"a batch of {batch_size} is larger than the {len(index) - len(holdout_rows)} training images"
            )
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} cannot be divided among {world_size} ranks")
        self.index = np.asarray(index)  # a plain view: a memmap pays for every subscript
        counts = np.asarray(counts, dtype=np.int64)
        # The images that can be drawn, by class; where all can, places are rows and nothing is stored.
        self._rows = np.delete(np.arange(len(index)), holdout_rows) if len(holdout_rows) else None
        self._counts = counts - np.bincount(self.index["label"][holdout_rows], minlength=len(counts))
        self._first = np.cumsum(self._counts) - self._counts
        self._size = int(self._counts.sum())
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        share = batch_size // world_size
        self.part = slice(rank * share, (rank + 1) * share)
        self._together = max(1, _ORDERED // batch_size)
        self._order = lru_cache(maxsize=2)(self._order_of_block)
        balanced = AliasTable(class_probabilities(counts, data.gamma))
        self.classes = {
            "interpolative": balanced,
            "rebalance": AliasTable(class_probabilities(counts, rebalance_gamma)),
        }

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch: as many batches as the class-agnostic stream fills, the rest dropped."""
        return self._size // self.batch_size

    def batch(self, phase: Phase, epoch: int, step: int) -> BatchPlan:
        """Return this rank's part of a global batch: the same arguments give the same batch."""
        agnostic = aware = lam = None
        if phase != "rebalance":
            rows = self.agnostic_rows(phase, epoch, step)
            agnostic = self._augment(rows, self._rng(_AUGMENT_AGNOSTIC, phase, epoch, step))[self.part]
        if phase != "warmup":
            rows = self.aware_rows(phase, epoch, step)
            aware = self._augment(rows, self._rng(_AUGMENT_AWARE, phase, epoch, step))[self.part]
        if phase == "interpolative":
            lam = self._lambda(epoch, step)[self.part]
        return BatchPlan(agnostic, aware, lam)

    def agnostic_rows(self, phase: Phase, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the index rows [B] of a class-agnostic global batch.

        Over the steps of an epoch no row comes twice (section 3.2: equal probability for all).

        Raises:
            ValueError: a step beyond the epoch.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise ValueError(f"step {step} lies outside an epoch of {self.steps_per_epoch} steps")
        block, place = divmod(step, self._together)
        return self._row(self._order(phase, epoch, block)[place * self.batch_size :][: self.batch_size])

    def _order_of_block(self, phase: Phase, epoch: int, block: int) -> NDArray[np.int64]:
        """Return where the images of some steps of an epoch lie, one step after another."""
        keys = self._rng(_ORDER, phase, epoch, 0).integers(0, 2**64, _FEISTEL_ROUNDS, dtype=np.uint64)
        steps = range(self.steps_per_epoch)[block * self._together : (block + 1) * self._together]
        positions = np.arange(steps.start * self.batch_size, steps.stop * self.batch_size)
        places = permute(positions, self._size, keys)
        places.flags.writeable = False  # the next steps take theirs from it
        return places

    def aware_rows(self, phase: Phase, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the index rows [B] of a class-aware global batch.

        First the class by equation 2, then one of its images uniformly, with repetition.
        """
        rng = self._rng(_DRAW, phase, epoch, step)
        classes = self.classes[phase].draw(rng, self.batch_size)
        return self._row(self._first[classes] + rng.integers(0, self._counts[classes]))

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows that can be drawn, sorted."""
        return self._row(np.arange(self._size))

    def rows_of(self, label: int) -> NDArray[np.int64]:
        """Return the rows of a class that can be drawn."""
        return self._row(self._first[label] + np.arange(self._counts[label]))

    def _row(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return places if self._rows is None else self._rows[places]

    def substitute(self, row: int, phase: Phase, epoch: int, step: int, attempt: int) -> StreamPlan:
        """Return the plan of one image that stands in for an unreadable one: another of its class.

        Args:
            row: the unreadable image.
            phase, epoch, step: where it was drawn.
            attempt: 0, 1, 2, ... where the first substitutes are unreadable too, or the same image.
        """
        counter = [attempt, step, epoch, PHASES.index(phase)]
        rng = np.random.Generator(np.random.Philox(counter=counter, key=[self.seed, _SUBSTITUTE + 8 * row]))
        label = self.index["label"][row]
        rows = self._row(self._first[label] + rng.integers(0, self._counts[label], 1))
        return self._augment(rows, rng)

    def _lambda(self, epoch: int, step: int) -> NDArray[np.float32]:
        size = self.batch_size if self.data.lambda_per == "sample" else 1
        drawn = self._rng(_LAMBDA, "interpolative", epoch, step).beta(self.data.alpha, self.data.beta, size)
        return np.resize(drawn.astype(np.float32), self.batch_size)

    def _rng(self, purpose: int, phase: Phase, epoch: int, step: int) -> np.random.Generator:
        # The lowest word of the counter is the generator's own; the rest says which batch this is.
        counter = [0, step, epoch, PHASES.index(phase)]
        return np.random.Generator(np.random.Philox(counter=counter, key=[self.seed, purpose]))

    def _augment(self, rows: NDArray[np.int64], rng: np.random.Generator) -> StreamPlan:
        # A subscript of records costs ten times as much as take, and more the larger the index is.
        found, size, data = self.index.take(rows), len(rows), self.data
        heights, widths = found["height"].astype(np.int64), found["width"].astype(np.int64)
        sizes = np.full((size, 2), data.image_size, dtype=np.float32)
        cuts = np.zeros((size, 2), dtype=np.int32)
        if data.crop == "random_resized":
            windows = resized_crop_windows(rng, heights, widths, data.crop_scale, data.crop_ratio)
        else:
            windows = whole(heights, widths)
            cuts[:] = rng.integers(-data.crop_padding, data.crop_padding + 1, (size, 2))
        flips = (rng.random(size) < data.flip).astype(np.int32)
        strength = np.array(data.color_jitter)
        colors = rng.uniform(np.maximum(0, 1 - strength), 1 + strength, (size, 3)).astype(np.float32)
        return StreamPlan(rows, found["label"].astype(np.int64), windows, sizes, cuts, flips, colors)


def evaluation_stream(index: NDArray[np.void], rows: NDArray[np.int64], data: Data) -> StreamPlan:
    """Return the plan of images of an evaluation split, which contains nothing random.

    Each image is resized and cut as `evaluation_crop` describes.
    """
    entries, count = index[rows], len(rows)
    heights, widths = entries["height"].astype(np.int64), entries["width"].astype(np.int64)
    sizes, cuts = evaluation_crop(heights, widths, data)
    return StreamPlan(
        rows,
        entries["label"].astype(np.int64),
        whole(heights, widths),
        sizes.astype(np.float32),
        cuts,
        np.zeros(count, dtype=np.int32),
        np.ones((count, 3), dtype=np.float32),
    )
