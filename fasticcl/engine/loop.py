"""The epoch loop that both stages share."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.data.loader import Loader
from fasticcl.engine.evaluate import Metrics
from fasticcl.engine.optim import set_lr
from fasticcl.engine.progress import Display
from fasticcl.engine.run.folder import Record, Run
from fasticcl.engine.run.save_clock import SaveClock
from fasticcl.engine.stages.stage import Losses, Stage, learn
from fasticcl.errors import Stopped, TrainingFailed
from fasticcl.system.ranks import Ranks
from fasticcl.system.signals import StopRequest

_NEVER = 2**62  # a step that no epoch reaches


class Meter:
    """Sums the losses of an epoch on the device and times its steps; nothing here waits for a GPU.

    Args:
        ranks: the processes whose losses are averaged.
        device: where the losses are.
        partial: what an earlier process of the same epoch had summed up.
    """

    def __init__(self, ranks: Ranks, device: torch.device, partial: dict[str, Any] | None = None) -> None:
        partial = partial or {}
        self.ranks = ranks
        sums = partial.get("sums", {})
        self.sums: Losses = {name: _share(each, ranks).to(device) for name, each in sums.items()}
        self.steps: int = partial.get("steps", 0)
        self.images, self.waited = 0, 0.0
        self.began = time.perf_counter()
        self.first_bad: torch.Tensor | None = None

    def add(self, losses: Losses, images: int, waited: float) -> None:
        """Count one step: its losses, its images and the seconds that it waited for them."""
        for name, value in losses.items():
            value = value.detach()
            before = self.sums.get(name)
            self.sums[name] = value if before is None else before + value
        loss = losses["loss"].detach()
        bad = torch.where(loss.isfinite(), _NEVER, self.steps)
        self.first_bad = bad if self.first_bad is None else torch.minimum(self.first_bad, bad)
        self.steps += 1
        self.images += images
        self.waited += waited

    def partial(self) -> dict[str, Any]:
        """Return what a checkpoint in the middle of an epoch has to keep: the sums of every rank."""
        sums = {name: self.ranks.all_gather(value.reshape(1)) for name, value in self.sums.items()}
        return {"sums": sums, "steps": self.steps}

    def bad_step(self) -> int | None:
        """Return the first step of this process in which some rank's loss was not finite, or None."""
        if self.first_bad is None:
            return None
        first = int(self.ranks.all_gather(self.first_bad.reshape(1)).min())
        return first if first < _NEVER else None

    def record(self) -> Record:
        """Return the means so far over all ranks; this is where the host waits for the device."""
        seconds = time.perf_counter() - self.began
        means = self.ranks.all_reduce(torch.stack([*self.sums.values()])) / (
            self.steps * self.ranks.world_size
        )
        return {
            **{f"train/{name}": mean for name, mean in zip(self.sums, means.tolist(), strict=True)},
            "throughput/images_per_sec": self.ranks.world_size * self.images / seconds,
            "time/data_wait_pct": 100 * self.waited / seconds,
        }


def _share(sums: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Return this rank's sum of those that a checkpoint holds; among other ranks than then, their mean."""
    return sums[ranks.rank] if len(sums) == ranks.world_size else sums.mean()


class Loop:
    """Runs a stage epoch by epoch: steps, evaluation, records, checkpoints.

    Args:
        loader: the training batches.
        evaluate: returns the accuracies of a stage's network.
        run: where records and checkpoints go.
        display: what a person sees.
        stop: whether the run was asked to stop.
        clock: whether it is time for a checkpoint.
        ranks: the processes that train together.
        log_every: steps between two records.
    """

    def __init__(
        self,
        loader: Loader,
        evaluate: Callable[[Stage], Metrics],
        run: Run,
        display: Display,
        stop: StopRequest,
        clock: SaveClock,
        ranks: Ranks,
        log_every: int,
    ) -> None:
        self.loader, self.evaluate, self.run, self.display = loader, evaluate, run, display
        self.stop, self.clock, self.ranks = stop, clock, ranks
        self.steps, self.log_every = loader.steps, log_every

    def train(
        self,
        stage: Stage,
        first_epoch: int = 0,
        first_step: int = 0,
        partial: dict[str, Any] | None = None,
    ) -> None:
        """Run a stage to its end, from a step of an epoch on.

        Raises:
            Stopped: a signal came; the state is saved.
            TrainingFailed: the loss is not finite; the last checkpoint is from before.
        """
        phase, batches = None, iter(())
        device = next(stage.network.parameters()).device
        meter = Meter(self.ranks, device, partial)
        for epoch in range(first_epoch, stage.epochs):
            if stage.phase(epoch) != phase:
                phase = self.display.phase = stage.phase(epoch)
                batches = self.loader.batches(phase, epoch, first_step)
            stage.train_mode()
            set_lr(stage.optimizer, stage.lr(epoch))
            for step in range(first_step, self.steps):
                self.take_step(stage, batches, meter)
                if (step + 1) % self.log_every == 0:
                    self.log(stage, epoch, step + 1, meter)
                due = self.clock.due() and self.ranks.is_main  # one clock for all
                signum, due = self.ranks.delayed_max(self.stop.signum or 0, due)
                saved = (signum or due) and self._save(stage, epoch, step + 1, meter)
                if signum:
                    raise self._stopped(signum, bool(saved))
            if signum := (self.ranks.flush_delayed_max() or [0])[0]:  # what the last step asked for
                raise self._stopped(signum, self._save(stage, epoch, self.steps, meter))
            self._finish_epoch(stage, epoch, meter)
            meter, first_step = Meter(self.ranks, device), 0

    def take_step(self, stage: Stage, batches: Iterator[Batch | StreamBatch], meter: Meter) -> None:
        """Learn from the next batch and count it; nothing here waits for the device."""
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        losses = learn(stage, batch)
        self.ranks.average_buffers(stage.network)
        meter.add(losses, batch.images, waited)
        self.display.step()

    def log(self, stage: Stage, epoch: int, step: int, meter: Meter) -> None:
        """Write a line about the epoch so far.

        Raises:
            TrainingFailed: a loss since the last line was not finite.
        """
        record = self._record(stage, epoch, step, meter)
        self.run.log(record)
        self.display.show_step(record, stage.epochs, self.steps)

    def _record(self, stage: Stage, epoch: int, step: int, meter: Meter) -> Record:
        self._check(stage, epoch, meter)
        place = {"stage": stage.name, "phase": stage.phase(epoch), "epoch": epoch + 1, "step": step}
        return {**place, "optim/lr": stage.lr(epoch), **meter.record()}

    def _check(self, stage: Stage, epoch: int, meter: Meter) -> None:
        """Raise TrainingFailed if a loss since the last check was not finite: nothing is saved after it."""
        if (step := meter.bad_step()) is None:
            return
        mine = self.loader.names(stage.phase(epoch), epoch, step)
        names = [name for each in self.ranks.all_gather_object(mine) for name in each]
        listed = self.run.list_images(names)
        raise TrainingFailed(
            f"The loss was not finite at step {step + 1} of {stage.name} epoch {epoch + 1}, on {names[0]} "
            f"and {len(names) - 1} more images ({listed}); lower --lr or look at these. "
            f"The last checkpoint is from before; go on from it with: {self.run.resume_command}"
        )

    def _check_weights(self, stage: Stage) -> None:
        """Raise TrainingFailed if the last step made a weight that is not finite, which no loss shows yet."""
        if all(bool(value.isfinite().all()) for value in stage.network.parameters()):
            return
        raise TrainingFailed(
            f"The weights of {stage.name} are not finite after the last step; lower --lr. "
            f"The last checkpoint is from before; go on from it with: {self.run.resume_command}"
        )

    def _save(self, stage: Stage, epoch: int, step: int, meter: Meter) -> bool:
        self._check(stage, epoch, meter)  # never save over a good checkpoint what is not
        self._check_weights(stage)
        self._share_bad_samples()
        return self.run.save(stage, epoch, step, meter.partial(), self.loader.bad_samples.rows)

    def _stopped(self, signum: int, saved: bool) -> Stopped | TrainingFailed:
        command = self.run.resume_command
        if saved:
            return Stopped(signum, command)
        return TrainingFailed(
            "Stopped, and the state could not be saved; make room and go on from the checkpoint before with: "
            f"{command}"
        )

    def _finish_epoch(self, stage: Stage, epoch: int, meter: Meter) -> None:
        record = self._record(stage, epoch, self.steps, meter)
        self._check_weights(stage)
        self._share_bad_samples()
        record |= {"data/bad_samples": len(self.loader.bad_samples), **self.evaluate(stage)}
        best = self.run.best(stage.name)
        self.run.finish_epoch(record)
        if best is None or record["val/top1"] > best["val/top1"]:
            self.run.save_best(stage.network, record)
        self.run.save(stage, epoch + 1, 0, {}, self.loader.bad_samples.rows)
        self.clock.restart()
        self.display.show_epoch(record, stage.epochs)

    def _share_bad_samples(self) -> None:
        """Have every rank know the unreadable images that any has met."""
        self.loader.bad_samples.merge(
            row for rows in self.ranks.all_gather_object(self.loader.bad_samples.rows) for row in rows
        )
