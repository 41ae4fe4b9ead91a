"""The files that a training process writes into its run folder."""

import io
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from fasticcl.engine.run.checkpoint import BEST, LAST, PREVIOUS, BestEpoch, Checkpoint, EpochSums, Record
from fasticcl.engine.run.deferred_writes import DeferredWrites
from fasticcl.engine.run.folder import CENTROIDS, ENVIRONMENT, WEIGHTS, RunFolder
from fasticcl.engine.run.lock import lock_run
from fasticcl.engine.run.metrics_log import MetricsLog, append
from fasticcl.engine.run.snapshot import Snapshot
from fasticcl.engine.run.weights import Description, pack_weights
from fasticcl.engine.run.writer_thread import Job, WriterThread
from fasticcl.engine.stages.stage import Stage
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.files import remove_unfinished, write_file
from fasticcl.method.network import Network
from fasticcl.system.hardware import cpu_model
from fasticcl.system.jpeg_engine import query_jpeg_engines
from fasticcl.system.machine import Machine
from fasticcl.system.ranks import Ranks
from fasticcl.system.wait_policy import describe_wait_policy
from fasticcl.version import __version__, package_version

PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "numpy")
"""Packages whose versions are recorded in ``environment.jsonl``."""
_FAILED_STEP = "failed_step.txt"


class RunWriter:
    """Writes the files of a run during training. Only the append-only files are not replaced atomically.

    Args:
        folder: the run folder.
        data_sha256: checksum of the training data, which every checkpoint records.
        ranks: the processes that train together. Only rank 0 writes.
        warn: called with messages about files that cannot be read or written.
    """

    def __init__(
        self,
        folder: RunFolder,
        data_sha256: str = "",
        ranks: Ranks | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.data_sha256, self.ranks, self.warn = folder, data_sha256, ranks or Ranks(), warn
        self.thread = WriterThread(warn)
        self.files = DeferredWrites(folder.path, self.ranks.is_main, self.thread.warn)
        self.metrics = MetricsLog(self.files, self.thread)
        self._jobs: dict[str, Job] = {}
        """The last write of each checkpoint file."""
        # A job keeps its snapshot until the next one, because this thread should free it: torch records CUDA
        # events to free pinned memory, which no other thread may do while this one captures a graph.

    def in_background(self) -> AbstractContextManager[object]:
        """Return a context manager in which a thread of rank 0 writes the files, in the usual order.

        Leaving it waits for all writes, or abandons them on Ctrl-C.
        """
        return self.thread if self.ranks.is_main else nullcontext()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run folder for this process and the other ranks.

        Raises:
            UserError: another process holds the lock.
        """
        with ExitStack() as lock:
            self.ranks.run_on_main(lambda: lock.enter_context(lock_run(self.folder.path)))
            lock.callback(self.thread.stop)  # the lock is held as long as the thread writes
            yield

    def resume(self) -> Checkpoint | None:
        """Restore the files to their state at the newest readable checkpoint, and return it.

        Raises:
            UserError: every checkpoint is damaged, the training data has changed, or a file cannot be
                written.
        """
        path = self.folder.path
        checkpoint, source = self.folder.checkpoint(self.data_sha256, self.warn) or (None, None)
        if checkpoint is None and (path / WEIGHTS).is_file():
            raise UserError(
                f"{path} is finished and its checkpoint {LAST} is missing, so it cannot be continued. "
                "Start a new run."
            )
        if source and source.name == PREVIOUS and self.ranks.is_main:
            (path / LAST).unlink(missing_ok=True)  # the next save would keep the damaged one as previous.pt
        try:
            if self.ranks.is_main:
                remove_unfinished(path)
            self.metrics.rewind(checkpoint)
        except OSError as error:
            raise UserError(
                f"Cannot write into {path}: {error.strerror}. Free some space and resume again."
            ) from None
        return checkpoint

    def record_environment(self, machine: Machine, subset: str = "") -> None:
        """Append versions, hardware, ranks and data checksum of this start to ``environment.jsonl``.

        Host names, user names and paths are not recorded.

        Args:
            machine: device and ranks.
            subset: sentence on the choice of the training images, or an empty string.
        """
        if not self.ranks.is_main:
            return
        environment = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "fasticcl": __version__,
            "python": platform.python_version(),
            **{name: package_version(name) for name in PACKAGES},
            "machine": machine.describe(),
            "cpu": cpu_model(),
            "openmp_wait_policy": describe_wait_policy(),
            **({} if machine.gpu is None else {"jpeg_engines": query_jpeg_engines().describe()}),
            "ranks": machine.ranks.world_size,
            "data": self.data_sha256[:12],
            **({"subset": subset} if subset else {}),
        }
        line = json.dumps(environment) + "\n"
        self.files.write(ENVIRONMENT, lambda path: append(path, line))

    def save(
        self, stage: Stage, epoch: int, step: int, partial: EpochSums, bad_rows: Sequence[int] = ()
    ) -> None:
        """Copy the state and write it to ``last.pt``. The old file becomes ``previous.pt``.

        In `in_background`, this waits only until the previous ``last.pt`` is written.

        Args:
            stage: the current stage.
            epoch, step: the next step.
            partial: statistics of the current epoch.
            bad_rows: rows of training images that could not be read.
        """
        if not self.ranks.is_main:
            return
        self._wait(LAST)
        snapshot = Snapshot((stage.state_dict(), partial, [*bad_rows], self.metrics.epochs))
        name, previous = stage.name, self.folder.path / PREVIOUS

        def write() -> None:
            state, sums, rows, epochs = snapshot.value()
            checkpoint = Checkpoint(
                stage=name,
                epoch=epoch,
                step=step,
                data_sha256=self.data_sha256,
                state=state,
                partial=sums,
                bad_rows=rows,
                epochs=epochs,
                unwritten="" if self.files.flush() else self.metrics.unwritten,
            )
            self.metrics.sync()  # the lines that a checkpoint covers must reach the disk before it does
            self.files.try_write(LAST, lambda path: checkpoint.save(path, previous, self.thread.check))

        self._jobs[LAST] = self.thread.submit(write)

    def wait_until_saved(self) -> bool:
        """Wait until the last `save` has ended and return True if it has written ``last.pt``."""
        self._wait(LAST)
        return LAST not in self.files.failing

    def save_best(self, network: Network, record: Record) -> None:
        """Copy the weights of the best epoch so far and write them to ``best.pt``."""
        if not self.ranks.is_main:
            return
        self._wait(BEST)
        snapshot = Snapshot((network.state_dict(), record))

        def write() -> None:
            best = BestEpoch(*snapshot.value())
            self.files.write(BEST, lambda path: best.save(path, self.thread.check))

        self._jobs[BEST] = self.thread.submit(write)

    def _wait(self, name: str) -> None:
        """Wait for the last write of a checkpoint file and free its snapshot."""
        if job := self._jobs.pop(name, None):
            self.thread.wait(job)

    def save_centroids(self, centroids: torch.Tensor) -> None:
        """Write the final centroids [K, D] of the representation stage to ``centroids.npy``."""
        content = io.BytesIO()
        np.save(content, centroids.cpu().numpy())
        array = content.getvalue()
        self.thread.submit(lambda: self.files.write(CENTROIDS, lambda path: write_file(path, array)))

    def write_failed_step(self, names: list[str]) -> Path:
        """Write the names of a failed step's images to ``failed_step.txt`` and return its path."""
        lines = "".join(name + "\n" for name in names).encode()
        self.thread.submit(lambda: self.files.try_write(_FAILED_STEP, lambda path: write_file(path, lines)))
        return self.folder.path / _FAILED_STEP

    def finish(self, network: Network, description: Description) -> None:
        """Write encoder, classifier and description to ``model.safetensors``, which finishes the run.

        This is called outside of `in_background`, when all other writes have ended.

        Raises:
            TrainingFailed: the file cannot be written. The checkpoint contains all data to write it later.
        """
        content = pack_weights(network, description)
        # last.pt is required, because it contains the weights from before rebalancing.
        complete = self.files.flush() and LAST not in self.files.failing
        if not (complete and self.files.try_write(WEIGHTS, lambda path: write_file(path, content))):
            raise TrainingFailed(
                f"The weights could not be written. Free some space, then run: {self.folder.resume_command}"
            )
        if self.ranks.is_main:
            (self.folder.path / PREVIOUS).unlink(missing_ok=True)
