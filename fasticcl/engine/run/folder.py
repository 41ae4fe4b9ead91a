"""The run folder: <project>/<dataset>/<name>/ with configuration, metrics, checkpoints and weights."""

import csv
import errno
import io
import json
import math
import os
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fasticcl.config import Config
from fasticcl.engine.evaluate import METRICS
from fasticcl.engine.run.checkpoint import load_checkpoint, save_checkpoint
from fasticcl.engine.run.deferred_writes import LateFiles
from fasticcl.engine.run.environment import ENVIRONMENT
from fasticcl.engine.run.lock import is_held
from fasticcl.engine.run.metrics_log import append, lines_until, sync
from fasticcl.engine.run.names import free_name, runs_nearby
from fasticcl.engine.run.weights import WEIGHTS, Description, pack_weights
from fasticcl.engine.stages.stage import Stage
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.files import remove_unfinished, write_file
from fasticcl.method.network import Network
from fasticcl.resolve import resolve
from fasticcl.system.launch import nproc_option

Record = dict[str, Any]
CENTROIDS = "centroids.npy"
_TRIAL = "trial-"  # begins the names of runs that took a few steps only
_COLUMNS = ("stage", "epoch", "phase", "optim/lr", "train/loss", *METRICS)


class Run:
    """One run's files. Everything but ``metrics.jsonl`` is written aside and renamed.

    Args:
        folder: the run folder, which exists.
        config: the resolved configuration, before any shortening.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.config = folder, config
        self.files = LateFiles(folder)
        """Writes all that training may go on without; on ranks that read only, nothing."""
        self.also_log: Callable[[Record], None] = lambda _: None
        """Called with every record that is logged."""
        self._unwritten = ""
        self._damaged: Path | None = None
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
        stem = _TRIAL * config.engine.fast_dev_run + config.method.name
        name = config.engine.name or free_name(runs, stem)
        folder = runs / name
        try:
            runs.mkdir(parents=True, exist_ok=True)
            # Made aside and renamed, so that a run folder always has its configuration.
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=runs) as aside:
                made = Path(aside) / name
                made.mkdir()
                write_file(made / "config.toml", config.to_toml().encode())
                os.rename(made, folder)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and folder.exists():
                raise UserError(
                    f"The run {folder} exists; choose another --name, or continue it with --resume."
                ) from None
            raise UserError(
                f"Cannot make the run folder {folder}: {error.strerror}; choose another --project."
            ) from None
        return cls(folder, config)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Return an existing run.

        Raises:
            UserError: the folder holds no run.
        """
        if not (folder / "config.toml").is_file():
            raise UserError(f"{folder} is not a run folder: it has no config.toml.{runs_nearby(folder)}")
        named = folder if folder.name not in ("", "..") else folder.resolve()
        return cls(named, resolve(file=folder / "config.toml"))

    @classmethod
    def newest(cls, project: Path, dataset: str, name: str | None) -> "Run":
        """Return the run that was saved last, a trial only where there is nothing else, or the named one.

        Raises:
            UserError: there is no such run.
        """
        runs = project / dataset
        if name:
            return cls.open(runs / name)
        saved = [path for name in ("last.pt", "config.toml") for path in runs.glob(f"*/{name}")]
        if not saved:
            raise UserError(f"There is no run to resume in {runs}; start one without --resume.")
        real = [path for path in saved if not path.parent.name.startswith(_TRIAL)]
        return cls.open(max(real or saved, key=lambda path: path.stat().st_mtime_ns).parent)

    def log(self, record: Record) -> None:
        """Append a line to ``metrics.jsonl``; lines that cannot be written wait for the next one.

        A number that JSON cannot hold (NaN) becomes null.
        """
        if not self.files.is_main:
            return
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._unwritten += json.dumps(clean) + "\n"
        self.files.put("metrics.jsonl", self._append_lines)
        self.also_log(clean)

    def _append_lines(self, path: Path) -> None:
        append(path, self._unwritten)
        self._unwritten = ""

    def started(self, environment: Record) -> None:
        """Append to ``environment.jsonl`` what this start of the run is made with."""
        line = json.dumps(environment) + "\n"
        self.files.put(ENVIRONMENT, lambda path: append(path, line))

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
        self.files.put("results.csv", lambda path: write_file(path, table.getvalue().encode()))

    def best(self, stage: str) -> Record | None:
        """Return the epoch of a stage with the highest overall accuracy, the earliest of equals."""
        return max((e for e in self.epochs if e["stage"] == stage), key=lambda e: e["val/top1"], default=None)

    def last(self, stage: str) -> Record | None:
        """Return the last finished epoch of a stage."""
        return next((e for e in reversed(self.epochs) if e["stage"] == stage), None)

    def save(
        self, stage: Stage, epoch: int, step: int, partial: dict[str, Any], bad_rows: Sequence[int] = ()
    ) -> bool:
        """Write ``last.pt``, from which the run goes on at ``step`` of ``epoch``; return whether it is there.

        The checkpoint before stays as ``previous.pt``.

        Args:
            stage: the stage that is running.
            epoch, step: the next step to take.
            partial: what the running epoch has summed up so far.
            bad_rows: training images that were found unreadable.
        """
        content = {
            "stage": stage.name,
            "epoch": epoch,
            "step": step,
            "partial": partial,
            "bad_rows": [*bad_rows],
            "data": self.data_sha256,
            "epochs": self.epochs,
            "unwritten": "" if self.files.catch_up() else self._unwritten,
            **stage.state_dict(),
        }
        if "metrics.jsonl" not in self.files.waiting:
            self.files.wrote("metrics.jsonl", sync)  # a checkpoint covers lines that are on the disk
        previous = self.folder / "previous.pt"
        return self.files.wrote("last.pt", lambda path: save_checkpoint(path, content, previous))

    def save_best(self, network: Network, record: Record) -> None:
        """Write ``best.pt``: the weights of the best epoch so far."""
        if not self.files.is_main:
            return
        # Clones, since they may have to wait.
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        content = {"network": weights, "record": record}
        self.files.put("best.pt", lambda path: save_checkpoint(path, content))

    def keep_centroids(self, centroids: torch.Tensor) -> None:
        """Write ``centroids.npy``: the centroids [K, d_z] that the representation stage ended with."""
        content = io.BytesIO()
        np.save(content, centroids.cpu().numpy())
        self.files.put(CENTROIDS, lambda path: write_file(path, content.getvalue()))

    def checkpoint(self) -> dict[str, Any]:
        """Return the newest checkpoint that can be read; an empty one before the first.

        Raises:
            UserError: damaged ones only, or other training data than it was made with.
        """
        paths = [path for name in ("last.pt", "previous.pt") if (path := self.folder / name).exists()]
        checkpoint: dict[str, Any] = {}
        for place, path in enumerate(paths, start=1):
            try:
                checkpoint = load_checkpoint(path)
                break
            except UserError as error:
                if place == len(paths):
                    raise
                self.files.warn(f"warning  {error.args[0].split(';')[0]}; going back to {paths[place].name}")
                self._damaged = path
        if checkpoint and checkpoint["data"] != self.data_sha256:
            raise UserError(
                f"The shards in {self.config.data.dir} are not those that {self.folder} was trained on; "
                "bring those back, or start a new run."
            )
        return checkpoint

    @property
    def finished(self) -> bool:
        """Whether all is written; `release` ends with taking away ``previous.pt``."""
        return (self.folder / WEIGHTS).is_file() and not (self.folder / "previous.pt").exists()

    def resume(self) -> dict[str, Any]:
        """Return `checkpoint` and take the files back to where it was written.

        Raises:
            UserError: damaged checkpoints only, or files that cannot be written.
        """
        checkpoint = self.checkpoint()
        if not checkpoint and (self.folder / WEIGHTS).is_file():
            raise UserError(
                f"{self.folder} is finished and its checkpoint last.pt is gone: nothing can go on from it; "
                "start a new run."
            )
        if self._damaged and self.files.is_main:
            self._damaged.unlink(missing_ok=True)  # else the next save would keep it as the one before
        self.epochs = checkpoint.get("epochs", [])
        log = self.folder / "metrics.jsonl"
        if self.files.is_main:
            try:
                remove_unfinished(self.folder)
                write_file(log, lines_until(checkpoint, log).encode())
            except OSError as error:
                raise UserError(f"Cannot write {log}: {error.strerror}; make room, then resume.") from None
            self._write_results()
        return checkpoint

    def list_images(self, names: list[str]) -> str:
        """Write the names of images into ``failed_step.txt`` and return where that is."""
        lines = "".join(name + "\n" for name in names).encode()
        self.files.wrote("failed_step.txt", lambda path: write_file(path, lines))
        return str(self.folder / "failed_step.txt")

    def release(self, network: Network, description: Description) -> None:
        """Write ``model.safetensors``, encoder, classifier and what they are; the run is done.

        Raises:
            TrainingFailed: it cannot be written; the checkpoint has all that is needed.
        """
        content = pack_weights(network, description)
        # Without last.pt there are no weights from before rebalancing.
        all_is_there = self.files.catch_up() and "last.pt" not in self.files.failing
        if not (all_is_there and self.files.wrote(WEIGHTS, lambda path: write_file(path, content))):
            raise TrainingFailed(f"The weights could not be written; make room, then: {self.resume_command}")
        if self.files.is_main:
            (self.folder / "previous.pt").unlink(missing_ok=True)

    @property
    def project(self) -> Path:
        """The folder that runs of all datasets lie in: its configuration's, unless the run was moved.

        It is the configuration's too where the run was moved out of a folder of the dataset's name.
        """
        dataset, project = self.config.data.dataset, self.config.engine.project
        runs = self.folder.absolute().parent
        moved = runs.name == dataset and runs != (project / dataset).absolute()
        return runs.parent if moved else project

    @property
    def way_on(self) -> str:
        """What to do about a run that is not finished, for the end of a sentence."""
        if is_held(self.folder):
            return "wait: it is being trained at this moment"
        return f"continue it with: {self.resume_command}"

    @property
    def resume_command(self) -> str:
        """What continues the run."""
        project = [] if self.project == Path("runs") else ["--project", str(self.project)]
        words = ["fasticcl", "train", self.config.data.dataset, *project, "--name", self.folder.name]
        return shlex.join([*words, *nproc_option(), "--resume"])
