"""Features of the training images, as the network computes them in evaluation."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from fasticcl.config import Config
from fasticcl.data.bad_samples import BadSamples, UnreadableImages, unreadable_rows
from fasticcl.data.dali.decoding import Decoder
from fasticcl.engine.dataset import Dataset
from fasticcl.engine.evaluate import feature_extractor
from fasticcl.engine.loaders import evaluation_batch_size, training_image_batches
from fasticcl.system.machine import Machine
from fasticcl.system.resources import decoding_threads

_STORED_BYTES = 2**30
"""Largest size of the features that are stored, for all training images of a rank."""
_BYTES = 4  # of a float32 number

Features = tuple[torch.Tensor, torch.Tensor]
"""Float32 features [B, d_g] and classes [B], on the CPU."""


class TrainingFeatures:
    """Batches of features of all training images, with the encoder and the transforms of an evaluation.

    Images of the holdout and unreadable images are left out. Each rank has a contiguous part of the images.
    Iterating decodes and encodes the images. Up to 1 GiB of features are stored on the CPU for the next
    iteration: 116,000 images of ImageNet-LT with 2048 numbers each. More features are computed again, such
    as the 3.3 GiB of iNaturalist 2018 on one rank.

    Args:
        config: configuration of the run.
        dataset: the opened splits.
        machine: device, precision, compilation and ranks.
        encoder: the encoder, in evaluation mode when the features are iterated. It does not change
            afterwards.
        bad_samples: the known unreadable images, to which newly found ones are added.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        machine: Machine,
        encoder: nn.Module,
        bad_samples: BadSamples,
    ) -> None:
        self.config, self.dataset, self.machine = config, dataset, machine
        self.encoder, self.bad_samples = encoder, bad_samples
        self._stored: list[Features] | None = None

    def __iter__(self) -> Iterator[Features]:
        """Yield the batches of this rank.

        Raises:
            TrainingFailed: too many images, or all images of a class, are unreadable, or DALI failed for
                another reason.
        """
        if self._stored is not None:
            yield from self._stored
            return
        stored: list[Features] | None = []
        size = 0
        for batch in self._compute():
            size += batch[0].numel() * _BYTES
            if stored is not None and size <= _STORED_BYTES:
                stored.append(batch)
            else:
                stored = None
            yield batch
        self._stored = stored

    @torch.no_grad()
    def _compute(self) -> Iterator[Features]:
        encode, ranks = feature_extractor(self.encoder, self.machine), self.machine.ranks
        # The ranks may know different unreadable images, so all images are divided.
        part = np.array_split(self.bad_samples.plan.rows, ranks.world_size)[ranks.rank]
        rows = np.setdiff1d(part, self.bad_samples.rows)
        batch_size = evaluation_batch_size(self.config, self.machine)
        while len(rows):
            try:
                for batch in training_image_batches(self.config, self.dataset, self.machine, rows):
                    yield encode(batch.x).cpu(), batch.y.cpu()
                    rows = rows[len(batch.y) :]
                return
            except UnreadableImages as error:
                bad = unreadable_rows(self.dataset.train, rows[:batch_size], self._decoder())
                if not bad:
                    raise error
                self.bad_samples.leave_out(bad)
            rows = np.setdiff1d(rows, bad)

    def _decoder(self) -> Decoder:
        threads = self.config.engine.workers or decoding_threads(self.machine.gpu is not None)
        return Decoder(threads, self.machine.gpu, self.config.data.hw_decoder_load)
