"""The steps of a training run on one rank: samples, losses and centroids."""

import contextlib
import os
import signal

import numpy as np
import pytest

from fasticcl.engine.loop import Loop
from fasticcl.engine.run.writer import RunWriter
from fasticcl.errors import Stopped
from tests.support.small_runs import fingerprints


def spied(call, *arguments, stop=None, **options):
    """Train and return the samples, loss and centroids of every step on this rank, its saves and its report.

    With ``stop``, rank ``stop`` modulo the number of ranks receives SIGTERM after that many steps.
    """
    seen, saves, step, save, report = [], [], Loop.take_step, RunWriter.save, None

    def watched(self, stage, batches, stats):
        batch = next(batches)
        sums = dict(stats.sums)
        step(self, stage, iter([batch]), stats)
        bank = getattr(stage, "bank", None)
        seen.append(
            {
                "samples": fingerprints(batch),
                "loss": float(stats.sums["loss"] - sums.get("loss", 0)),
                "centroids": bank.centroids.clone().numpy() if bank else np.zeros(0),
            }
        )
        if len(seen) == stop and self.ranks.rank == stop % self.ranks.world_size:
            os.kill(os.getpid(), signal.SIGTERM)

    def saving(self, stage, epoch, step, *rest):
        saves.append((stage.name, epoch, step))
        return save(self, stage, epoch, step, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Loop, "take_step", watched)
        patched.setattr(RunWriter, "save", saving)
        with contextlib.suppress(Stopped):
            report = call(*arguments, **options)
    return seen, saves, report


def slots(ranks):
    """Return the samples of every step in the order of the global batch."""
    return [[sample for rank in step for sample in rank["samples"]] for step in zip(*ranks, strict=True)]
