"""The runs that a project already has."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fasticcl.config import Config
from fasticcl.engine.run.folder import CONFIG
from fasticcl.errors import UserError
from fasticcl.report.run_history import RunHistory, read_history
from fasticcl.reproduce.run_key import first_stage_key, run_key


@dataclass(frozen=True)
class ExistingRun:
    """A run in the project, finished or not."""

    folder: Path
    config: Config
    history: RunHistory | None
    """None before the first evaluated epoch."""

    @property
    def finished(self) -> bool:
        """True if all epochs of all stages are recorded."""
        return self.history is not None and self.history.finished

    @property
    def first_stage_finished(self) -> bool:
        """True if all epochs of the representation stage are recorded."""
        if self.history is None:
            return False
        return len(self.history.stage("representation")) == self.config.optim.epochs


class ExistingRuns:
    """The runs of a project, found by what they train and not by their names.

    Args:
        project: the folder that contains the runs of all datasets.
    """

    def __init__(self, project: Path) -> None:
        self.runs = [*_read(project)]

    def find(self, config: Config) -> ExistingRun | None:
        """Return a run with the same training, preferably a finished one."""
        key = run_key(config)
        return self._preferred([run for run in self.runs if run_key(run.config) == key])

    def with_first_stage(self, config: Config) -> ExistingRun | None:
        """Return a run that has finished the same representation stage."""
        key = first_stage_key(config)
        return self._preferred(
            [run for run in self.runs if run.first_stage_finished and first_stage_key(run.config) == key]
        )

    @staticmethod
    def _preferred(runs: list[ExistingRun]) -> ExistingRun | None:
        return max(runs, key=lambda run: (run.finished, run.first_stage_finished), default=None)


def _read(project: Path) -> Iterator[ExistingRun]:
    for file in sorted(project.glob(f"*/*/{CONFIG}")):
        try:
            history = read_history(file.parent)
        except UserError:  # no evaluated epoch
            history = None
        config = history.config if history else _config(file)
        if config:
            yield ExistingRun(file.parent, config, history)


def _config(file: Path) -> Config | None:
    from fasticcl.resolve import resolve

    try:
        return resolve(file=file)
    except UserError:  # written by another version
        return None
