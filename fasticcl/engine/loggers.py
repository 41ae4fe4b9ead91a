"""Where the records of a run go beside its own files: TensorBoard and Weights & Biases."""

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
    """A place for scalars and figures."""

    def log(self, scalars: dict[str, float], step: int) -> None:
        """Keep scalars of a step; steps never fall."""
        ...

    def show(self, figures: dict[str, Path]) -> None:
        """Keep figures, PNG files by name."""
        ...

    def close(self) -> None:
        """Keep what is left; nothing more comes."""
        ...


class TensorBoard:
    """Event files in the run folder's ``tensorboard/``, which ``tensorboard --logdir runs`` finds.

    Args:
        folder: the run folder.
        first: the global step of the next record; what an earlier process wrote of this and later ones is
            hidden. None: nothing is.
    """

    def __init__(self, folder: Path, first: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def log(self, scalars: dict[str, float], step: int) -> None:
        """Write scalars to the disk, so that a killed run has all that metrics.jsonl has."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def show(self, figures: dict[str, Path]) -> None:
        """Write figures beside the scalars."""
        for name, path in figures.items():
            with Image.open(path) as picture:
                self.writer.add_image(
                    f"figures/{name}", np.asarray(picture.convert("RGB")), dataformats="HWC"
                )

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class WandB:
    """A W&B run, set up by W&B's own environment variables (WANDB_PROJECT, WANDB_MODE, ...).

    Its id is kept in the run folder, so that a run that goes on does so in W&B too, which drops the steps
    that it has already.
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
        """Queue scalars; W&B sends them from a process of its own."""
        self.run.log(scalars, step=step)

    def show(self, figures: dict[str, Path]) -> None:
        """Queue figures."""
        import wandb  # pyrefly: ignore[missing-import]  # an extra

        self.run.log({f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()})

    def close(self) -> None:
        """Wait until W&B has everything."""
        self.run.finish()


def log_figures(folder: Path, config: Config, figures: dict[str, Path]) -> None:
    """Pass the figures of a finished run on to the loggers that it had.

    Args:
        folder: the run folder.
        config: its configuration.
        figures: PNG files by name.

    Raises:
        Exception: whatever a logger raises.
    """
    for name in config.engine.logger:
        logger = TensorBoard(folder, None) if name == "tensorboard" else WandB(folder, config)
        logger.show(figures)
        logger.close()


def _wandb_id(path: Path) -> str:
    if not path.exists():
        write_file(path, secrets.token_hex(4).encode())
    return path.read_text().strip()


def require(names: Iterable[str]) -> None:
    """Import what the loggers need.

    Raises:
        UserError: one is not installed.
    """
    for name in names:
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise UserError(
                f"--logger {name} cannot be used ({error}); get what it needs with: "
                f"pip install 'fasticcl[{name}]'"
            ) from None


class Loggers:
    """Passes the scalars of a run's records on, by global step; a logger that fails is left out from then on.

    Args:
        config: the configuration that the run follows; its ``engine.logger`` names the loggers.
        steps: steps of an epoch.
    """

    def __init__(self, config: Config, steps: int) -> None:
        self.config = config
        self._steps = steps
        self._open: dict[str, Logger] = {}
        self._warn: Callable[[str], None] = lambda _: None

    def step(self, stage: str | None, epoch: int, step: int) -> int:
        """Return the global step, over both stages, of a step of an epoch, which counts from 0."""
        before = self.config.optim.epochs if stage == "rebalancing" else 0
        return (before + epoch) * self._steps + step

    def open(self, run: RunWriter, first: int) -> None:
        """Start the loggers, to which `log` then passes the records.

        Args:
            run: the run; it warns of a logger that fails.
            first: the least global step that is still to be logged. At the end of an epoch that is the step
                that the run has reached, since the epoch's record is still to come.
        """
        self._warn = run.warn
        kinds: dict[str, Callable[[], Logger]] = {
            "tensorboard": lambda: TensorBoard(run.folder.path, first),
            "wandb": lambda: WandB(run.folder.path, self.config),
        }
        for name in self.config.engine.logger:
            self._try(name, lambda name=name: self._open.update({name: kinds[name]()}))

    def log(self, record: Record) -> None:
        """Pass on the numbers of a record; those of an epoch's last step come with the epoch's accuracies.

        W&B takes a step once: what comes to it in a later process, after a stop between the two, is dropped.
        """
        if record["step"] == self._steps and "val/top1" not in record:
            return
        step = self.step(record["stage"], record["epoch"] - 1, record["step"])
        scalars = {name: value for name, value in record.items() if "/" in name and value is not None}
        for name, logger in [*self._open.items()]:
            self._try(name, lambda logger=logger: logger.log(scalars, step))

    def close(self) -> None:
        """Let every logger finish."""
        for name, logger in [*self._open.items()]:
            self._try(name, logger.close)
        self._open.clear()

    def _try(self, name: str, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # whatever ails it, training goes on
            self._open.pop(name, None)
            self._warn(f"warning  {name} fails and is left out from here on: {error}")
