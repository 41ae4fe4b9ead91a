"""The runs that a project already has."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fasticcl.config import Config
from fasticcl.engine.run.checkpoint import LAST
from fasticcl.engine.run.folder import CONFIG, RunFolder
from fasticcl.engine.run.lock import is_locked
from fasticcl.engine.run.metrics_log import METRICS_LOG
from fasticcl.errors import UserError
from fasticcl.report.run_history import RunHistory, history_of
from fasticcl.reproduce.planning.shard_folder import checksum_of
from fasticcl.reproduce.run_key import (
    first_stage_key,
    run_and_first_stage_keys,
    run_key,
    seed_run_config,
)
from fasticcl.resolve import resolve


@dataclass(frozen=True)
class ExistingRun:
    """A run in the project, finished or not."""

    folder: Path
    config: Config

    @cached_property
    def history(self) -> RunHistory | None:
        """The recorded epochs, or None before the first evaluated epoch or if they are damaged."""
        try:
            history = history_of(RunFolder(self.folder, self.config))
        except (UserError, OSError, KeyError):
            return None
        return history if all({"stage", "epoch"} <= record.keys() for record in history.epochs) else None

    @property
    def finished(self) -> bool:
        """True if all epochs of all stages are recorded and all files are written."""
        recorded = self.history is not None and self.history.finished
        return recorded and RunFolder(self.folder, self.config).finished

    @property
    def damaged(self) -> bool:
        """True if the weights are written, but the records of the epochs are incomplete."""
        recorded = self.history is not None and self.history.finished
        return RunFolder(self.folder, self.config).finished and not recorded and not self.running

    @cached_property
    def running(self) -> bool:
        """True if a process was training the run when this was first read."""
        try:
            return is_locked(self.folder)
        except OSError:
            return False

    @property
    def first_stage_finished(self) -> bool:
        """True if all epochs of the representation stage are recorded."""
        if self.history is None:
            return False
        epochs = {record["epoch"] for record in self.history.stage("representation")}
        return len(epochs) == self.history.effective_config.optim.epochs

    @cached_property
    def data(self) -> str:
        """The first digits of the checksum of the training data, or an empty string if it is not known.

        A run that has not started yet will be trained on the data in its folder of shards.
        """
        if self.history and self.history.environments:
            return str(self.history.environments[-1].get("data", ""))
        return checksum_of(self.config.data.dir)

    @cached_property
    def has_planned_seed_network(self) -> bool:
        """False if the network that guides M2m is that of a run with another training.

        A run that is not found is taken to be the planned one.
        """
        given = self.config.method.seed_run
        if given is None:
            return True
        for folder in (given, self.folder.parent / given.name):
            try:
                seed = ExistingRun(folder, RunFolder.open(folder).config)
            except UserError:
                continue
            same_data = "" in (seed.data, self.data) or seed.data == self.data
            return same_data and run_key(seed.config) == run_key(seed_run_config(self.config))
        return True

    @property
    def in_place(self) -> bool:
        """True if the folder is named after the dataset, where the command line looks for the run."""
        return self.folder.absolute().parent.name == self.config.data.dataset

    @cached_property
    def can_be_continued(self) -> bool:
        """True if `fasticcl rebalance` can start another second stage from the first stage of the run."""
        if not (self.first_stage_finished and self.in_place and (self.folder / LAST).is_file()):
            return False
        return self.data in ("", checksum_of(self.config.data.dir))


class ExistingRuns:
    """The runs of a project, found by what they train and not by their names.

    Args:
        project: the folder that contains the runs of all datasets.
    """

    def __init__(self, project: Path) -> None:
        self.problems: list[str] = []
        """Folders that look like runs, but cannot be used, with the reason."""
        self.notes: list[str] = []
        """Runs with the wanted settings that were trained on other images."""
        self._of_training: dict[str, list[ExistingRun]] = {}
        self._of_first_stage: dict[str, list[ExistingRun]] = {}
        for run in self._read(project):
            training, first_stage = run_and_first_stage_keys(run.config)
            self._of_training.setdefault(training, []).append(run)
            self._of_first_stage.setdefault(first_stage, []).append(run)

    def find(self, config: Config, data: str = "") -> ExistingRun | None:
        """Return a run with the same training, preferably a finished one.

        Args:
            config: the training.
            data: first digits of the checksum of its data. Empty: any data.
        """
        same_training = self._of_training.get(run_key(config), [])
        runs = _comparable(same_training, data)
        for run in same_training:
            if not run.has_planned_seed_network:
                reason = "its method.seed_run is not a run of ce with the same settings"
                _add(self.notes, f"{run.folder} is not used: {reason}")
            elif run not in runs:
                _add(self.notes, f"{run.folder} is not used: it was trained on other images")
            elif run.damaged:
                _add(
                    self.problems, f"{run.folder} is not used: it has weights, but {METRICS_LOG} lacks epochs"
                )
        return _preferred([run for run in runs if run.finished or (run.in_place and not run.damaged)])

    def with_first_stage(self, config: Config, data: str = "") -> ExistingRun | None:
        """Return a run with the same finished representation stage, from which a second stage can start."""
        runs = _comparable(self._of_first_stage.get(first_stage_key(config), []), data)
        return _preferred([run for run in runs if run.can_be_continued])

    def _read(self, project: Path) -> Iterator[ExistingRun]:
        for file in sorted(project.glob(f"*/*/{CONFIG}")):
            try:
                config = resolve(file=file)
            except UserError as error:  # damaged, or written by another version
                self.problems.append(f"{file.parent} is not used: {error}")
                continue
            yield ExistingRun(file.parent, config)


def _comparable(runs: list[ExistingRun], data: str) -> list[ExistingRun]:
    """Return the runs that are not known to be trained on other data or with another seed network."""
    on_data = [run for run in runs if not data or run.data in ("", data)]
    return [run for run in on_data if run.has_planned_seed_network]


def _add(messages: list[str], message: str) -> None:
    if message not in messages:
        messages.append(message)


def _preferred(runs: list[ExistingRun]) -> ExistingRun | None:
    return max(runs, key=lambda run: (run.finished, run.running, run.first_stage_finished), default=None)
