"""The epoch loop that both stages share."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from fasticcl.data.loader import Batch, Loader, StreamBatch
from fasticcl.engine.evaluate import Metrics
from fasticcl.engine.optim import set_lr
from fasticcl.engine.progress import Display
from fasticcl.engine.run import Record, Run
from fasticcl.engine.stage import Losses, Stage
from fasticcl.engine.stop import StopRequest
from fasticcl.errors import Stopped, TrainingFailed


class Meter:
    """Sums the losses of an epoch on the device and times its steps; nothing here waits for a GPU."""

    def __init__(self, partial: dict[str, Any] | None = None) -> None:
        partial = partial or {}
        self.sums: Losses = partial.get("sums", {})
        self.steps: int = partial.get("steps", 0)
        self.images, self.waited = 0, 0.0
        self.began = time.perf_counter()

    def add(self, losses: Losses, images: int, waited: float) -> None:
        """Count one step: its losses, its images and the seconds that it waited for them."""
        for name, value in losses.items():
            value = value.detach()
            before = self.sums.get(name)
            self.sums[name] = value if before is None else before.to(value.device) + value
        self.steps += 1
        self.images += images
        self.waited += waited

    def partial(self) -> dict[str, Any]:
        """Return what a checkpoint in the middle of an epoch has to keep."""
        return {"sums": dict(self.sums), "steps": self.steps}

    def record(self) -> Record:
        """Return the means so far; this is where the host waits for the device."""
        seconds = time.perf_counter() - self.began
        return {
            **{f"train/{name}": value.item() / self.steps for name, value in self.sums.items()},
            "throughput/images_per_sec": self.images / seconds,
            "time/data_wait_pct": 100 * self.waited / seconds,
        }


class Loop:
    """Runs a stage epoch by epoch: steps, evaluation, records, checkpoints.

    Args:
        loader: the training batches.
        evaluate: returns the accuracies of a stage's network.
        run: where records and checkpoints go.
        display: what a person sees.
        stop: whether the run was asked to stop.
        log_every: steps between two records.
    """

    def __init__(
        self,
        loader: Loader,
        evaluate: Callable[[Stage], Metrics],
        run: Run,
        display: Display,
        stop: StopRequest,
        log_every: int,
    ) -> None:
        self.loader, self.evaluate, self.run, self.display, self.stop = loader, evaluate, run, display, stop
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
        meter = Meter(partial)
        for epoch in range(first_epoch, stage.epochs):
            if stage.phase(epoch) != phase:
                phase = stage.phase(epoch)
                batches = self.loader.batches(phase, epoch, first_step)
            stage.train_mode()
            set_lr(stage.optimizer, stage.lr(epoch))
            for step in range(first_step, self.steps):
                self._step(stage, batches, meter)
                if (step + 1) % self.log_every == 0:
                    self._log(stage, epoch, step + 1, meter)
                if self.stop.signum is not None:
                    self._record(
                        stage, epoch, step + 1, meter
                    )  # never save over a good checkpoint what is not
                    self.run.save(stage, epoch, step + 1, meter.partial())
                    raise Stopped(self.stop.signum, self.run.resume_command)
            self._finish_epoch(stage, epoch, meter)
            meter, first_step = Meter(), 0

    def _step(self, stage: Stage, batches: Iterator[Batch | StreamBatch], meter: Meter) -> None:
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        losses = stage.losses(batch)
        stage.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        stage.optimizer.step()
        meter.add(losses, batch.images, waited)
        self.display.step()

    def _log(self, stage: Stage, epoch: int, step: int, meter: Meter) -> None:
        record = self._record(stage, epoch, step, meter)
        self.run.log(record)
        self.display.running(record, stage.epochs, self.steps)

    def _record(self, stage: Stage, epoch: int, step: int, meter: Meter) -> Record:
        place = {"stage": stage.name, "phase": stage.phase(epoch), "epoch": epoch + 1, "step": step}
        record: Record = {**place, "optim/lr": stage.lr(epoch), **meter.record()}
        if not math.isfinite(record["train/loss"]):
            raise TrainingFailed(
                f"The loss became {record['train/loss']} by step {step} of {stage.name} epoch {epoch + 1}; "
                f"lower --lr. A checkpoint in {self.run.folder} is from an epoch before."
            )
        return record

    def _finish_epoch(self, stage: Stage, epoch: int, meter: Meter) -> None:
        record = self._record(stage, epoch, self.steps, meter)
        record |= self.evaluate(stage)
        best = self.run.best(stage.name)
        self.run.finish_epoch(record)
        if best is None or record["val/top1"] > best["val/top1"]:
            self.run.save_best(stage.network, record)
        self.run.save(stage, epoch + 1, 0, {})
        self.display.epoch(record, stage.epochs)
