"""The loader of small images in device memory, which runs no DALI graph."""

from collections.abc import Iterator
from functools import cached_property
from itertools import count

from fasticcl.data.device_images import DeviceImages, PackedBatch, pack
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Phase


class DeviceLoader:
    """Packed batches of a training split, from which `DeviceImages` computes the batches of `Loader`.

    Args:
        loader: draws the batches and replaces unreadable images. Its pipeline is not started.

    Attributes:
        steps: steps per epoch.
        bad_samples: the unreadable images. All of them are found before the first batch.
    """

    def __init__(self, loader: Loader) -> None:
        self.steps, self.bad_samples, self.names = loader.steps, loader.bad_samples, loader.names
        self._loader = loader

    @cached_property
    def images(self) -> DeviceImages:
        """The images of the plan, which the first use decodes."""
        loader = self._loader
        return DeviceImages.load(
            loader.shards,
            loader.plan.rows,
            loader.plan.data,
            threads=loader.options.threads,
            gpu=loader.options.gpu,
            report_bad=loader.bad_samples.report,
        )

    def batches(self, phase: Phase, epoch: int = 0, step: int = 0) -> Iterator[PackedBatch]:
        """Yield packed batches endlessly, epoch after epoch, starting at a step.

        On a GPU machine they are in pinned memory, from which they can be copied without waiting.

        Raises:
            TrainingFailed: too many images, or all images of a class, are unreadable.
        """
        _ = self.images  # decoded first, because unreadable images change the plan
        for iteration in count(epoch * self.steps + step):
            packed = pack(self._loader.planned(phase, iteration))
            yield packed if self._loader.options.gpu is None else packed.pinned()
