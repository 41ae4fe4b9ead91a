"""The plan: every random choice of a training step, as a pure function of (seed, phase, epoch, step).

The plan draws the images, crop windows, flips, colour factors and λ of the global batch with the
counter-based generator Philox, and then slices them by rank. Nothing else in the data pipeline holds random
state, so any batch can be reproduced, in any order and on any number of ranks.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data.boxes import cutmix_boxes, share_outside
from fasticcl.data.crops import evaluation_crop, resized_crop_windows, whole
from fasticcl.data.sampling import AliasTable, class_probabilities, permute

Phase = Literal["warmup", "interpolative", "rebalance", "translation"]
PHASES: tuple[Phase, ...] = ("warmup", "interpolative", "rebalance", "translation")

# Purposes of the generators. Each has its own stream of numbers, so enabling or disabling one kind of draw
# does not change the others. The keys _SUBSTITUTE + 8 · row belong to `Plan.substitute`, so no other purpose
# may be 13, 21, 29, ...
_ORDER, _DRAW, _AUGMENT_AGNOSTIC, _AUGMENT_AWARE, _LAMBDA, _SUBSTITUTE, _RESAMPLE, _METHOD = range(8)
_IS_MIXED, _BOX = 8, 9
_NONE = np.empty(0, dtype=np.int64)
_FEISTEL_ROUNDS = 8
_BLOCK = 1024  # images whose order is computed at once, to amortise the overhead of NumPy calls


@dataclass(frozen=True)
class StreamPlan:
    """B images of one stream with their transformations. Every array has B rows."""

    rows: NDArray[np.int64]
    """[B] rows of the index."""
    labels: NDArray[np.int64]
    """[B] class of each image."""
    windows: NDArray[np.int32]
    """[B, 4] top, left, height, width of the decoded window, in pixels of the stored image."""
    sizes: NDArray[np.float32]
    """[B, 2] height, width of the resized window, in pixels."""
    cuts: NDArray[np.int32]
    """[B, 2] top, left of the final square in the resized window, which has black padding around it."""
    flips: NDArray[np.int32]
    """[B] 1 if the image is mirrored, else 0."""
    colors: NDArray[np.float32]
    """[B, 3] factors of brightness, contrast and saturation."""

    def __getitem__(self, part: slice) -> "StreamPlan":
        return StreamPlan(*(getattr(self, name)[part] for name in self.__dataclass_fields__))

    def with_image(self, position: int, image: "StreamPlan") -> "StreamPlan":
        """Return a copy with the image at one position replaced by ``image``, the plan of a single image."""
        fields = {name: getattr(self, name).copy() for name in self.__dataclass_fields__}
        for name, values in fields.items():
            values[position] = getattr(image, name)[0]
        return StreamPlan(**fields)


@dataclass(frozen=True)
class BatchPlan:
    """The random choices of one step. A stream that the phase does not use is None."""

    agnostic: StreamPlan | None
    """The class-agnostic stream (x_h)."""
    aware: StreamPlan | None
    """The class-aware stream (x_t)."""
    lam: NDArray[np.float32] | None
    """[B] λ of equation 3. All values are equal if ``data.lambda_per`` is batch."""
    boxes: NDArray[np.int32] | None = None
    """[B, 4] top, left, height, width of the part of x_f that comes from x_t, in pixels of the network input.
    λ is the share of the image outside of it. None: ``data.mixing`` is not cutmix."""

    @property
    def streams(self) -> list[StreamPlan]:
        """The streams that the phase uses, with the class-agnostic stream first."""
        return [stream for stream in (self.agnostic, self.aware) if stream is not None]


class Plan:
    """The random choices of a run over one training index.

    Args:
        index: structured array with fields label, height and width, whose rows are sorted by label. It may
            be memory-mapped, because only the drawn rows are read.
        counts: [K] images per class. Their sum is the length of the index.
        data: the settings of sections 3.2 and 4.3.
        batch_size: B, images per stream in the global batch.
        seed: seed of the run.
        rebalance_gamma: γ' of the class-aware stream in the rebalancing stage.
        resample_epoch: first epoch of the representation stage, counted from 0, whose class-agnostic stream
            is drawn with ``data.resample_gamma``. None: never.
        resample_phase: the only phase with re-sampling. None: all phases of the class-agnostic stream.
        holdout_rows: rows of the index that are never drawn, sorted. Each class keeps at least one row.
            Equation 2 counts all images of a class, including these.
        rank, world_size: determine this process's slice of every global batch.

    Raises:
        ValueError: the batch is larger than the number of images that can be drawn or not divisible among
            the ranks, or a class has no images.
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
        resample_epoch: int | None = None,
        resample_phase: Phase | None = None,
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
        self.index = np.asarray(index)  # a plain view, because indexing a memmap is slow
        counts = np.asarray(counts, dtype=np.int64)
        # Rows that can be drawn. Without a holdout, positions are rows, and nothing is stored.
        self._rows = np.delete(np.arange(len(index)), holdout_rows) if len(holdout_rows) else None
        self._counts = counts - np.bincount(self.index["label"][holdout_rows], minlength=len(counts))
        self._first = np.cumsum(self._counts) - self._counts
        self._size = int(self._counts.sum())
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        share = batch_size // world_size
        self.part = slice(rank * share, (rank + 1) * share)
        self._block_steps = max(1, _BLOCK // batch_size)
        self._order = lru_cache(maxsize=2)(self._order_of_block)
        self.classes = {
            "interpolative": AliasTable(class_probabilities(counts, data.gamma)),
            "rebalance": AliasTable(class_probabilities(counts, rebalance_gamma)),
        }
        self._resample_epoch = math.inf if resample_epoch is None else resample_epoch
        self._resample_phase = resample_phase
        if resample_epoch is not None:
            self.classes["resampled"] = AliasTable(class_probabilities(counts, data.resample_gamma))

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches of the class-agnostic stream. The incomplete last batch is dropped."""
        return self._size // self.batch_size

    def batch(self, phase: Phase, epoch: int, step: int) -> BatchPlan:
        """Return this rank's slice of a global batch. The same arguments give the same batch."""
        agnostic = aware = lam = boxes = None
        if phase != "rebalance":
            rows = self.agnostic_rows(phase, epoch, step)
            agnostic = self._augment(rows, self._rng(_AUGMENT_AGNOSTIC, phase, epoch, step))[self.part]
        if phase in ("interpolative", "rebalance"):
            rows = self.aware_rows(phase, epoch, step)
            aware = self._augment(rows, self._rng(_AUGMENT_AWARE, phase, epoch, step))[self.part]
        if phase == "interpolative":
            lam, boxes = self._mixing(epoch, step)
            lam, boxes = lam[self.part], None if boxes is None else boxes[self.part]
        return BatchPlan(agnostic, aware, lam, boxes)

    def method_rng(self, phase: Phase, epoch: int, step: int) -> np.random.Generator:
        """Return a generator for the random choices of the method in a step, which is equal on all ranks."""
        return self._rng(_METHOD, phase, epoch, step)

    def agnostic_rows(self, phase: Phase, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the index rows [B] of a class-agnostic global batch.

        Before ``resample_epoch``, no row occurs twice in an epoch (section 3.2: all images have the same
        probability). From this epoch on, in the phases with re-sampling, the class is drawn by equation 2
        with ``data.resample_gamma``, then one of its images uniformly, with replacement. The number of draws
        per epoch is the same.

        Raises:
            ValueError: the step is outside the epoch.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise ValueError(f"step {step} is outside an epoch of {self.steps_per_epoch} steps")
        if epoch >= self._resample_epoch and self._resample_phase in (None, phase):
            return self._draw(self.classes["resampled"], self._rng(_RESAMPLE, phase, epoch, step))
        block, offset = divmod(step, self._block_steps)
        return self._row(self._order(phase, epoch, block)[offset * self.batch_size :][: self.batch_size])

    def _order_of_block(self, phase: Phase, epoch: int, block: int) -> NDArray[np.int64]:
        """Return the positions of the images of a block of consecutive steps of an epoch."""
        keys = self._rng(_ORDER, phase, epoch, 0).integers(0, 2**64, _FEISTEL_ROUNDS, dtype=np.uint64)
        steps = range(self.steps_per_epoch)[block * self._block_steps : (block + 1) * self._block_steps]
        positions = np.arange(steps.start * self.batch_size, steps.stop * self.batch_size)
        order = permute(positions, self._size, keys)
        order.flags.writeable = False  # it is cached for the next steps
        return order

    def aware_rows(self, phase: Phase, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the index rows [B] of a class-aware global batch.

        The class is drawn by equation 2, then one of its images uniformly, with replacement.
        """
        return self._draw(self.classes[phase], self._rng(_DRAW, phase, epoch, step))

    def _draw(self, table: AliasTable, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return B index rows, drawn with replacement: a class from the table, then one of its images."""
        classes = table.draw(rng, self.batch_size)
        return self._row(self._first[classes] + rng.integers(0, self._counts[classes]))

    @property
    def rows(self) -> NDArray[np.int64]:
        """Sorted rows that can be drawn."""
        return self._row(np.arange(self._size))

    def rows_of(self, label: int) -> NDArray[np.int64]:
        """Return the rows of a class that can be drawn."""
        return self._row(self._first[label] + np.arange(self._counts[label]))

    def _row(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows at these positions among the rows that can be drawn."""
        return positions if self._rows is None else self._rows[positions]

    def substitute(self, row: int, phase: Phase, epoch: int, step: int, attempt: int) -> StreamPlan:
        """Return the plan of one image that replaces an unreadable image of the same class.

        Args:
            row: row of the unreadable image.
            phase, epoch, step: the step in which it was drawn.
            attempt: 0 at first, then 1, 2, ... as long as the previous substitute is also unreadable.
        """
        counter = [attempt, step, epoch, PHASES.index(phase)]
        rng = np.random.Generator(np.random.Philox(counter=counter, key=[self.seed, _SUBSTITUTE + 8 * row]))
        label = self.index["label"][row]
        rows = self._row(self._first[label] + rng.integers(0, self._counts[label], 1))
        return self._augment(rows, rng)

    def _mixing(self, epoch: int, step: int) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
        """Return λ [B] and the boxes [B, 4] of a global batch."""
        data, phase, boxes = self.data, "interpolative", None
        count = self.batch_size if data.lambda_per == "sample" else 1
        lam = self._rng(_LAMBDA, phase, epoch, step).beta(data.alpha, data.beta, count)
        is_mixed = self._rng(_IS_MIXED, phase, epoch, step).random(count) < data.mixing_probability
        lam = np.where(is_mixed, lam, 1.0)
        if data.mixing == "cutmix":
            boxes = cutmix_boxes(self._rng(_BOX, phase, epoch, step), lam, data.image_size)
            lam = share_outside(boxes, data.image_size)
            boxes = np.resize(boxes, (self.batch_size, 4))
        return np.resize(lam.astype(np.float32), self.batch_size), boxes

    def _rng(self, purpose: int, phase: Phase, epoch: int, step: int) -> np.random.Generator:
        # The generator increments the lowest word. The other words identify the batch.
        counter = [0, step, epoch, PHASES.index(phase)]
        return np.random.Generator(np.random.Philox(counter=counter, key=[self.seed, purpose]))

    def _augment(self, rows: NDArray[np.int64], rng: np.random.Generator) -> StreamPlan:
        # Indexing a structured array costs ten times as much as take, and more for a larger index.
        entries, size, data = self.index.take(rows), len(rows), self.data
        heights, widths = entries["height"].astype(np.int64), entries["width"].astype(np.int64)
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
        return StreamPlan(rows, entries["label"].astype(np.int64), windows, sizes, cuts, flips, colors)


def evaluation_stream(index: NDArray[np.void], rows: NDArray[np.int64], data: Data) -> StreamPlan:
    """Return the plan of images of an evaluation split, without random choices.

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
