"""Small training images in device memory, cropped, flipped and mixed by torch instead of DALI."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from fasticcl.config import Data
from fasticcl.data.batch import Batch, PairBatch, StreamBatch, TrainingBatch
from fasticcl.data.cache import cache_budget, decode_rows
from fasticcl.data.dali.resize import resized_by_dali
from fasticcl.data.plan import BatchPlan
from fasticcl.shards.reader import Shards

_SMALL = 64  # largest image size in pixels. Larger images are bound by the network, not by kernel launches.
_CHUNK = 1024  # images that are decoded and resized at a time
_PER_STREAM = 4  # values of an image in a packed stream: row, top, left, flip
_BOX_SHIFTS = np.array([0, 8, 16, 24], dtype=np.int32)  # bits of top, left, height and width, at most _SMALL


def obstacle(data: Data, shards: Shards, gpu: int | None) -> str | None:
    """Return the reason why the images of a split cannot be prepared on the device, or None if they can."""
    if data.crop != "pad":
        return f"data.crop is {data.crop}, not pad"
    if any(data.color_jitter):
        return "data.color_jitter is not 0"
    if data.image_size > _SMALL:
        return f"data.image_size is {data.image_size}, more than {_SMALL}"
    needed = 3 * len(shards) * (data.image_size + 2 * data.crop_padding) ** 2
    if needed > cache_budget("device", gpu):
        return f"the images need {needed / 2**20:,.0f} MiB of device memory"
    return None


@dataclass(frozen=True)
class PackedBatch:
    """The random choices of a batch in one tensor, from which `DeviceImages` computes the images."""

    values: torch.Tensor
    """[4, B] int32 row, top, left and flip of one stream, or [9, B] with two streams and the bits of λ, or
    [10, B] with boxes of CutMix, each in one number."""

    @property
    def images(self) -> int:
        """Number of images of the batch, in both streams."""
        return len(self.values) // _PER_STREAM * self.values.shape[1]

    def pinned(self) -> "PackedBatch":
        """Return a copy in pinned memory."""
        return PackedBatch(self.values.pin_memory())


def pack(planned: BatchPlan) -> PackedBatch:
    """Return the choices of a batch that apply to small images, in host memory."""
    values: list[NDArray[np.int32]] = []
    for stream in planned.streams:
        values += [stream.rows.astype(np.int32), stream.cuts[:, 0], stream.cuts[:, 1], stream.flips]
    if planned.lam is not None:
        values.append(planned.lam.view(np.int32))
    if planned.boxes is not None:
        values.append(np.bitwise_or.reduce(planned.boxes << _BOX_SHIFTS, axis=1))
    return PackedBatch(torch.from_numpy(np.stack(values)))


class DeviceImages:
    """The images of a split in device memory, and the transformations of the phases that crop with padding.

    The images are those of the DALI graph, which remains the definition: on a CPU they are bit-identical. All
    operations work on tensors of fixed shapes on the device and can be captured in a CUDA graph.

    Args:
        images: [N, S, S, 3] uint8 RGB images in host memory.
        labels: [N] classes.
        data: crop padding, mean and standard deviation.
        device: device of the images.
    """

    def __init__(
        self, images: torch.Tensor, labels: NDArray[np.integer], data: Data, device: torch.device
    ) -> None:
        self.size, self.padding = images.shape[1], data.crop_padding
        self._width = self.size + 2 * self.padding
        self._mixing = data.mixing
        padded = F.pad(images, (0, 0, *(self.padding,) * 4))  # black, as in the graph
        self._pixels = padded.reshape(-1, 3).to(device)
        self._labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self._across = torch.arange(self.size, device=device)
        self._mean = torch.tensor([255 * value for value in data.mean], device=device)
        self._scale = 1 / torch.tensor([255 * value for value in data.std], device=device)

    @classmethod
    def load(
        cls,
        shards: Shards,
        rows: NDArray[np.integer],
        data: Data,
        *,
        threads: int,
        gpu: int | None,
        report_bad: Callable[[list[int], str], None],
    ) -> "DeviceImages":
        """Decode and resize the images in these rows of a split. All other images are black.

        Args:
            shards: the split.
            rows: sorted rows.
            data: the settings of the images.
            threads: threads that decode.
            gpu: device number, or None for the CPU.
            report_bad: called with the rows of unreadable images and the reason.
        """
        images = torch.zeros(len(shards), data.image_size, data.image_size, 3, dtype=torch.uint8)
        for first in range(0, len(rows), _CHUNK):
            decoded = dict(decode_rows(shards, rows[first : first + _CHUNK], threads, report_bad))
            if decoded:
                resized = resized_by_dali([*decoded.values()], data.image_size, threads)
                images[torch.tensor([*decoded])] = torch.from_numpy(np.stack(resized))
        device = torch.device("cpu") if gpu is None else torch.device("cuda", gpu)
        return cls(images, shards.index["label"], data, device)

    def batch(self, values: torch.Tensor) -> TrainingBatch:
        """Return the batch of packed values [4, 9 or 10, B] on the device."""
        streams = values[: len(values) // _PER_STREAM * _PER_STREAM].split(_PER_STREAM)
        (x_h, y_h), *others = (self._augmented(*stream) for stream in streams)
        if not others:
            return StreamBatch(self._normalised(x_h), y_h)
        ((x_t, y_t),) = others
        lam = values[2 * _PER_STREAM].view(torch.float32)
        if self._mixing == "none":
            return PairBatch(self._normalised(x_h), y_h, self._normalised(x_t), y_t, lam)
        if self._mixing == "cutmix":
            mixed = torch.where(self._inside(values[-1]), x_t, x_h)
        else:
            weight = lam[:, None, None, None]
            mixed = weight * x_h + (1 - weight) * x_t  # equation 3
        return Batch(self._normalised(x_h), y_h, self._normalised(mixed), y_t, lam)

    def _augmented(
        self, rows: torch.Tensor, tops: torch.Tensor, lefts: torch.Tensor, flips: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [B, S, S, 3] uint8 and their classes [B]."""
        rows = rows.long()
        columns = torch.where(flips[:, None] > 0, self._across.flip(0), self._across)
        y = (rows * self._width + self.padding + tops)[:, None] + self._across
        x = self.padding + lefts[:, None] + columns
        pixels = y[:, :, None] * self._width + x[:, None, :]
        images = self._pixels.index_select(0, pixels.flatten()).view(*pixels.shape, 3)
        return images, self._labels.index_select(0, rows)

    def _inside(self, packed: torch.Tensor) -> torch.Tensor:
        """Return [B, S, S, 1] True inside of packed boxes [B]."""
        top, left, height, width = ((packed >> int(shift) & 255)[:, None] for shift in _BOX_SHIFTS)
        rows = (self._across >= top) & (self._across < top + height)
        columns = (self._across >= left) & (self._across < left + width)
        return (rows[:, :, None] & columns[:, None, :])[..., None]

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Return [B, 3, S, S] float32 in channels_last memory format."""
        return ((images - self._mean) * self._scale).permute(0, 3, 1, 2)
