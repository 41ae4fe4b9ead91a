"""The run folder: <project>/<dataset>/<name>/ with configuration, metrics, checkpoints and weights."""

import csv
import io
import json
import math
import shlex
from pathlib import Path
from typing import Any

import safetensors.torch

from fasticcl.config import Config
from fasticcl.engine.checkpoint import load_checkpoint, save_checkpoint
from fasticcl.engine.evaluate import METRICS
from fasticcl.engine.stage import STAGES, Stage
from fasticcl.errors import UserError
from fasticcl.files import write_file
from fasticcl.method.network import Network
from fasticcl.resolve import resolve

Record = dict[str, Any]
_COLUMNS = ("stage", "epoch", "phase", "optim/lr", "train/loss", *METRICS)


class Run:
    """One run's files. Everything but ``metrics.jsonl`` is written aside and renamed.

    Args:
        folder: the run folder, which exists.
        config: the resolved configuration, before any shortening.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.config = folder, config
        self.data_sha256 = ""
        """What the training data was made from; a checkpoint goes with no other."""
        self.epochs: list[Record] = []
        """One record per finished epoch, the lines of results.csv."""

    @classmethod
    def create(cls, config: Config) -> "Run":
        """Make the folder of a new run and write ``config.toml``.

        Raises:
            UserError: the name is taken, or the folder cannot be made.
        """
        runs = config.engine.project / config.data.dataset
        name = config.engine.name or _free_name(runs, config.method.name)
        folder = runs / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(
                f"The run {folder} exists; choose another --name, or continue it with --resume."
            ) from None
        except OSError as error:
            raise UserError(
                f"Cannot make the run folder {folder}: {error.strerror}; choose another --project."
            ) from None
        run = cls(folder, config)
        write_file(folder / "config.toml", config.to_toml().encode())
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Return an existing run.

        Raises:
            UserError: the folder holds no run.
        """
        if not (folder / "config.toml").is_file():
            raise UserError(f"{folder} is not a run folder: it has no config.toml.")
        return cls(folder, resolve(file=folder / "config.toml"))

    @classmethod
    def newest(cls, project: Path, dataset: str, name: str | None) -> "Run":
        """Return the run that was saved last, or the named one.

        Raises:
            UserError: there is no such run.
        """
        runs = project / dataset
        if name:
            return cls.open(runs / name)
        saved = sorted(runs.glob("*/last.pt"), key=lambda path: path.stat().st_mtime)
        if not saved:
            raise UserError(f"There is no run to resume in {runs}; start one without --resume.")
        return cls.open(saved[-1].parent)

    def log(self, record: Record) -> None:
        """Append a line to ``metrics.jsonl``.

        A number that JSON cannot hold (NaN) becomes null.
        """
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    def finish_epoch(self, record: Record) -> None:
        """Log an epoch and rewrite ``results.csv``."""
        self.log(record)
        self.epochs.append(record)
        self._write_results()

    def _write_results(self) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, _COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(self.epochs)
        write_file(self.folder / "results.csv", table.getvalue().encode())

    def best(self, stage: str) -> Record | None:
        """Return the epoch of a stage with the highest overall accuracy, the earliest of equals."""
        return max((e for e in self.epochs if e["stage"] == stage), key=lambda e: e["val/top1"], default=None)

    def last(self, stage: str) -> Record | None:
        """Return the last finished epoch of a stage."""
        return next((e for e in reversed(self.epochs) if e["stage"] == stage), None)

    def save(self, stage: Stage, epoch: int, step: int, partial: dict[str, Any]) -> None:
        """Write ``last.pt``, from which the run goes on at ``step`` of ``epoch``.

        Args:
            stage: the stage that is running.
            epoch, step: the next step to take.
            partial: what the running epoch has summed up so far.
        """
        save_checkpoint(
            self.folder / "last.pt",
            {
                "stage": stage.name,
                "epoch": epoch,
                "step": step,
                "partial": partial,
                "data": self.data_sha256,
                "epochs": self.epochs,
                **stage.state(),
            },
        )

    def save_best(self, network: Network, record: Record) -> None:
        """Write ``best.pt``: the weights of the best epoch so far."""
        save_checkpoint(self.folder / "best.pt", {"network": network.state_dict(), "record": record})

    def checkpoint(self) -> dict[str, Any]:
        """Return ``last.pt``.

        Raises:
            UserError: no checkpoint, a damaged one, or other training data than it was made with.
        """
        if not (self.folder / "last.pt").exists():
            raise UserError(
                f"{self.folder} was stopped before its first checkpoint; delete it, or choose another --name."
            )
        checkpoint = load_checkpoint(self.folder / "last.pt")
        if checkpoint["data"] != self.data_sha256:
            raise UserError(
                f"The shards in {self.config.data.dir} are not those that {self.folder} was trained on; "
                "bring those back, or start a new run."
            )
        return checkpoint

    def resume(self) -> dict[str, Any]:
        """Return ``last.pt`` and take the files back to where it was written.

        Raises:
            UserError: no checkpoint, or a damaged one.
        """
        checkpoint = self.checkpoint()
        self.epochs = checkpoint["epochs"]
        self._write_results()
        reached = (STAGES.index(checkpoint["stage"]), checkpoint["epoch"], checkpoint["step"])
        log = self.folder / "metrics.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        kept = [line for line in lines if _position(line) <= reached]
        write_file(log, "".join(line + "\n" for line in kept).encode())
        return checkpoint

    def release(self, network: Network) -> None:
        """Write ``model.safetensors``: encoder and classifier, in plain contiguous tensors."""
        tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
        write_file(self.folder / "model.safetensors", safetensors.torch.save(tensors))

    @property
    def resume_command(self) -> str:
        """What continues the run."""
        engine = self.config.engine
        project = [] if engine.project == Path("runs") else ["--project", str(engine.project)]
        words = [
            "fasticcl",
            "train",
            self.config.data.dataset,
            *project,
            "--name",
            self.folder.name,
            "--resume",
        ]
        return shlex.join(words)


def _position(line: str) -> tuple[float, ...]:
    """Return how far the run was after what a line of metrics.jsonl tells, as (stage, epoch, step)."""
    try:
        record = json.loads(line)
        return STAGES.index(record["stage"]), record["epoch"] - 1, record["step"]
    except (ValueError, KeyError, TypeError):
        return (math.inf,)  # a line cut short by a crash


def _free_name(runs: Path, method: str) -> str:
    number = 1
    while (runs / f"{method}-{number}").exists():
        number += 1
    return f"{method}-{number}"
