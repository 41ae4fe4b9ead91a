"""The epoch loop that all stages share."""

import time
from collections.abc import Callable, Iterator

import torch

from fasticcl.data.batch import TrainingBatch
from fasticcl.data.device_images import PackedBatch
from fasticcl.data.device_loader import DeviceLoader
from fasticcl.data.loader import Loader
from fasticcl.engine.epoch_stats import EpochStats, EpochTimes
from fasticcl.engine.evaluate import NOT_EVALUATED, Metrics
from fasticcl.engine.progress import Display
from fasticcl.engine.run.checkpoint import Checkpoint, Record
from fasticcl.engine.run.writer import RunWriter
from fasticcl.engine.stages.stage import Learn, Stage, TrainingStage, learn
from fasticcl.errors import Stopped, TrainingFailed
from fasticcl.system.signals import StopRequest

AnyBatch = TrainingBatch | PackedBatch


class SaveClock:
    """Counts the steps or minutes since the last checkpoint.

    Args:
        every: ``engine.save_every``, in steps (``500``) or minutes (``15m``).
    """

    def __init__(self, every: str) -> None:
        self._minutes = every.endswith("m")
        self._every = int(every.removesuffix("m"))
        self.restart()

    def restart(self) -> None:
        """Start counting from zero."""
        self._steps, self._began = 0, time.monotonic()

    def due(self) -> bool:
        """Count a step and return True if a checkpoint is due.

        The clock restarts at once, because with several ranks the checkpoint is written one step later and
        must not be requested again in that step.
        """
        self._steps += 1
        passed = (time.monotonic() - self._began) // 60 if self._minutes else self._steps
        if passed < self._every:
            return False
        self.restart()
        return True


class Loop:
    """Runs a stage epoch by epoch: steps, evaluation, records and checkpoints.

    Args:
        loader: the training batches.
        evaluate: returns the accuracies of a stage's network.
        run: writes records and checkpoints. Its configuration sets their intervals.
        display: shows the progress.
        learn: takes a training step on a batch of the loader.
    """

    def __init__(
        self,
        loader: Loader | DeviceLoader,
        evaluate: Callable[[Stage], Metrics],
        run: RunWriter,
        display: Display,
        learn: Learn = learn,
    ) -> None:
        self.loader, self.evaluate, self.run, self.display = loader, evaluate, run, display
        self.learn = learn
        self.ranks, self.steps = run.ranks, loader.steps
        engine = run.folder.config.engine
        self.clock, self.log_every = SaveClock(engine.save_every), engine.log_every
        self.eval_every, self.times = engine.eval_every, EpochTimes()
        self.stop = StopRequest()
        """A context manager. While it is entered, a signal ends training after the current step."""

    def train(self, stage: Stage, checkpoint: Checkpoint | None = None) -> None:
        """Train a stage to its end, from its beginning or from a checkpoint of this stage.

        Raises:
            Stopped: a signal was received, and the state is saved.
            TrainingFailed: a loss or a weight is not finite, too many images are unreadable, or the state
                could not be saved after a signal.
        """
        first_epoch, first_step, partial = 0, 0, None
        if checkpoint:
            stage.load_state_dict(checkpoint.state)
            first_epoch, first_step, partial = checkpoint.epoch, checkpoint.step, checkpoint.partial
        phase, batches = None, iter(())
        device = next(stage.network.parameters()).device
        stats = EpochStats(self.ranks, device, partial)
        for epoch in range(first_epoch, stage.epochs):
            if isinstance(stage, TrainingStage) and stage.phase(epoch) != phase:
                phase = self.display.phase = stage.phase(epoch)
                batches = self.loader.batches(phase, epoch, first_step)
            stage.begin_epoch(epoch)
            if isinstance(stage, TrainingStage):
                self._take_steps(stage, epoch, first_step, batches, stats)
            elif signum := max(self.ranks.all_gather_object(self.stop.signum or 0)):
                self._save(stage, epoch, 0, stats)
                raise self._stopped(signum)
            self._finish_epoch(stage, epoch, stats)
            stats, first_step = EpochStats(self.ranks, device), 0

    def _take_steps(
        self,
        stage: TrainingStage,
        epoch: int,
        first_step: int,
        batches: Iterator[AnyBatch],
        stats: EpochStats,
    ) -> None:
        """Take the remaining steps of an epoch."""
        for step in range(first_step, self.steps):
            self.take_step(stage, batches, stats)
            if (step + 1) % self.log_every == 0:
                self.log(stage, epoch, step + 1, stats)
            due = self.clock.due() and self.ranks.is_main  # the clock of rank 0 decides for all
            signum, due = self.ranks.delayed_max(self.stop.signum or 0, due)
            if signum or due:
                self._save(stage, epoch, step + 1, stats)
            if signum:
                raise self._stopped(signum)
        if signum := (self.ranks.flush_delayed_max() or [0])[0]:  # received during the last step
            self._save(stage, epoch, self.steps, stats)
            raise self._stopped(signum)

    def take_step(self, stage: TrainingStage, batches: Iterator[AnyBatch], stats: EpochStats) -> None:
        """Train on the next batch, without waiting for the device."""
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        losses = self.learn(stage, batch)
        self.ranks.average_buffers(stage.network)
        stats.add(losses, batch.images, waited)
        self.display.step()

    def log(self, stage: Stage, epoch: int, step: int, stats: EpochStats) -> None:
        """Log a record of the epoch so far.

        Raises:
            TrainingFailed: a loss since the last record was not finite.
        """
        record = self._record(stage, epoch, step, stats)
        self.run.metrics.log(record)
        self.display.show_step(record, stage.epochs, self.steps)

    def _record(self, stage: Stage, epoch: int, step: int, stats: EpochStats) -> Record:
        self._check(stage, epoch, stats)
        position = {"stage": stage.name, "phase": stage.phase(epoch), "epoch": epoch + 1, "step": step}
        return {**position, "optim/lr": stage.lr(epoch), **stats.record()}

    def _check(self, stage: Stage, epoch: int, stats: EpochStats) -> None:
        """Raise TrainingFailed if a loss since the last check was not finite."""
        if (step := stats.bad_step()) is None or not isinstance(stage, TrainingStage):
            return
        mine = self.loader.names(stage.phase(epoch), epoch, step)
        names = [name for each in self.ranks.all_gather_object(mine) for name in each]
        path = self.run.write_failed_step(names)
        raise TrainingFailed(
            f"The loss was not finite at step {step + 1} of {stage.name} epoch {epoch + 1}, on {names[0]} "
            f"and {len(names) - 1} more images ({path}). Lower --lr or inspect these images. "
            f"The last checkpoint is from before that step. Continue from it with: {self._command}"
        )

    def _check_weights(self, stage: Stage) -> None:
        """Raise TrainingFailed if a weight is not finite, which affects the loss only in the next step."""
        finite = [value.isfinite().all() for value in stage.network.parameters()]
        if torch.stack(finite).all():  # the only wait for the device
            return
        if stage.phase(0) == "readout":
            raise TrainingFailed(
                "The weights of the readout are not finite. The representation stage is finished, so repeat "
                f"the readout with: fasticcl rebalance {self.run.folder.path} --set rebalance.tau=1"
            )
        raise TrainingFailed(
            f"The weights are not finite after the last step of the {stage.name} stage. Lower --lr. "
            f"The last checkpoint is from before that step. Continue from it with: {self._command}"
        )

    def _save(self, stage: Stage, epoch: int, step: int, stats: EpochStats) -> None:
        self._check(stage, epoch, stats)  # do not replace a good checkpoint with a bad one
        self._check_weights(stage)
        self._share_bad_samples()
        partial = stats.partial()
        with self.times.measure("save"):
            self.run.save(stage, epoch, step, partial, self.loader.bad_samples.rows)

    def _stopped(self, signum: int) -> Stopped | TrainingFailed:
        if self.run.wait_until_saved():
            return Stopped(signum, self._command)
        return TrainingFailed(
            "Stopped, but the state could not be saved. Free some space, then continue from the last "
            f"checkpoint with: {self._command}"
        )

    @property
    def _command(self) -> str:
        return self.run.folder.resume_command

    def _finish_epoch(self, stage: Stage, epoch: int, stats: EpochStats) -> None:
        steps = self.steps if isinstance(stage, TrainingStage) else 0
        record = self._record(stage, epoch, steps, stats)
        self._check_weights(stage)
        self._share_bad_samples()
        record |= {"data/bad_samples": len(self.loader.bad_samples), **self._accuracies(stage, epoch)}
        record |= self.times.record()
        self.run.metrics.finish_epoch(record)
        with self.times.measure("save"):
            if self.run.metrics.best(stage.name) is record:
                self.run.save_best(stage.network, record)
            self.run.save(stage, epoch + 1, 0, {}, self.loader.bad_samples.rows)
        self.clock.restart()
        self.display.show_epoch(record, stage.epochs)

    def _accuracies(self, stage: Stage, epoch: int) -> Metrics:
        """Return the accuracies after an epoch, or only None if it is not evaluated."""
        if (epoch + 1) % self.eval_every and epoch + 1 < stage.epochs:
            return NOT_EVALUATED
        with self.times.measure("eval"):
            return self.evaluate(stage)

    def _share_bad_samples(self) -> None:
        """Exchange the unreadable images that any rank has found."""
        self.loader.bad_samples.merge(
            row for rows in self.ranks.all_gather_object(self.loader.bad_samples.rows) for row in rows
        )
