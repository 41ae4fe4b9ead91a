"""Loggers for TensorBoard and Weights & Biases, in addition to the run's own files."""

import importlib
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fasticcl.config import Config
from fasticcl.engine.run.checkpoint import Record
from fasticcl.engine.run.writer import RunWriter
from fasticcl.errors import UserError
from fasticcl.files import write_file

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
_WANDB_ID = "wandb.id"


class Logger(Protocol):
    """Interface of a logger for scalars and figures."""

    def log(self, scalars: dict[str, float], step: int) -> None:
        """Log the scalars of a global step. Steps never decrease."""
        ...

    def log_figures(self, figures: dict[str, Path]) -> None:
        """Log figures, given as PNG files by name."""
        ...

    def close(self) -> None:
        """Write all pending data and close the logger."""
        ...


class TensorBoard:
    """Logger that writes TensorBoard event files to ``tensorboard/`` in the run folder.

    Args:
        folder: the run folder.
        first: global step of the next record. Events of an earlier process from this step on are hidden.
            None hides nothing.
    """

    def __init__(self, folder: Path, first: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def log(self, scalars: dict[str, float], step: int) -> None:
        """Write scalars and flush them, so a killed run has the same records as in metrics.jsonl."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def log_figures(self, figures: dict[str, Path]) -> None:
        """Write figures."""
        for name, path in figures.items():
            with Image.open(path) as image:
                self.writer.add_image(f"figures/{name}", np.asarray(image.convert("RGB")), dataformats="HWC")

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class WandB:
    """Logger for a W&B run, configured by W&B's environment variables (WANDB_PROJECT, WANDB_MODE, ...).

    The id is saved in the run folder, so a resumed run continues the same W&B run. W&B drops steps that it
    already has.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        import wandb  # pyrefly: ignore[missing-import]  # an extra

        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fasticcl"),
            name=os.environ.get("WANDB_NAME", f"{config.data.dataset}-{folder.name}"),
            id=os.environ.get("WANDB_RUN_ID") or _wandb_id(folder / _WANDB_ID),
            resume="allow",
            config=config.model_dump(mode="json"),
            dir=os.environ.get("WANDB_DIR", str(folder)),
        )

    def log(self, scalars: dict[str, float], step: int) -> None:
        """Queue scalars for the separate W&B process, which sends them."""
        self.run.log(scalars, step=step)

    def log_figures(self, figures: dict[str, Path]) -> None:
        """Queue figures."""
        import wandb  # pyrefly: ignore[missing-import]  # an extra

        self.run.log({f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()})

    def close(self) -> None:
        """Wait until W&B has received all data."""
        self.run.finish()


def log_figures(folder: Path, config: Config, figures: dict[str, Path]) -> None:
    """Log the figures of a finished run with the loggers of its configuration.

    Args:
        folder: the run folder.
        config: configuration of the run.
        figures: PNG files by name.

    Raises:
        Exception: a logger failed.
    """
    for name in config.engine.logger:
        logger = TensorBoard(folder, None) if name == "tensorboard" else WandB(folder, config)
        logger.log_figures(figures)
        logger.close()


def _wandb_id(path: Path) -> str:
    if not path.exists():
        write_file(path, secrets.token_hex(4).encode())
    return path.read_text().strip()


def import_loggers(names: Iterable[str]) -> None:
    """Import the packages of the loggers.

    Raises:
        UserError: a package is not installed.
    """
    for name in names:
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise UserError(
                f"--logger {name} is not available ({error}). "
                f"Install its packages with: pip install 'fasticcl[{name}]'"
            ) from None


class Loggers:
    """The loggers of a run. A logger that fails is disabled with a warning.

    Args:
        config: the effective configuration. ``engine.logger`` lists the loggers.
        steps: steps per epoch.
    """

    def __init__(self, config: Config, steps: int) -> None:
        self.config = config
        self._steps = steps
        self._open: dict[str, Logger] = {}
        self._warn: Callable[[str], None] = lambda _: None

    def global_step(self, stage: str | None, epoch: int, step: int) -> int:
        """Return the global step over all stages. ``epoch`` counts from 0 within its stage.

        A readout counts as one step, so its record does not have the step of the record before it.
        """
        if stage in (None, "seed"):
            return epoch * self._steps + step
        before = self.config.seed_epochs * self._steps
        if stage == "representation":
            return before + epoch * self._steps + step
        steps = self._steps if self.config.rebalance.readout == "none" else 1
        return before + self.config.optim.epochs * self._steps + epoch * steps + step

    def open(self, run: RunWriter, first: int) -> None:
        """Start the loggers.

        Args:
            run: the run, whose ``warn`` reports a failing logger.
            first: first global step that is not logged yet. At the end of an epoch this is the current step,
                because the record of the epoch is still missing.
        """
        self._warn = run.warn
        kinds: dict[str, Callable[[], Logger]] = {
            "tensorboard": lambda: TensorBoard(run.folder.path, first),
            "wandb": lambda: WandB(run.folder.path, self.config),
        }
        for name in self.config.engine.logger:
            self._try(name, lambda name=name: self._open.update({name: kinds[name]()}))

    def log(self, record: Record) -> None:
        """Log the numbers of a record.

        The last step of an epoch has two records. Only the second one, the record of the epoch, is
        logged. W&B accepts each step once, so it would drop the second one after a stop between the two.
        """
        ends_epoch = "val/top1" in record
        if record["step"] == self._steps and not ends_epoch:
            return
        position = (record["epoch"], 0) if ends_epoch else (record["epoch"] - 1, record["step"])
        step = self.global_step(record["stage"], *position)
        scalars = {name: value for name, value in record.items() if "/" in name and value is not None}
        for name, logger in [*self._open.items()]:
            self._try(name, lambda logger=logger: logger.log(scalars, step))

    def close(self) -> None:
        """Close all loggers."""
        for name, logger in [*self._open.items()]:
            self._try(name, logger.close)
        self._open.clear()

    def _try(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # any failure of a logger must not stop training
            self._open.pop(name, None)
            self._warn(f"warning  {name} failed and is disabled for this run: {error}")
