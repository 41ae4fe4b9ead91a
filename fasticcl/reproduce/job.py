"""One run that a table needs."""

from dataclasses import dataclass
from pathlib import Path

from fasticcl.config import Config
from fasticcl.reproduce.cell import Cell
from fasticcl.reproduce.existing_runs import ExistingRun


@dataclass(frozen=True)
class Job:
    """One run that a plan needs. Cells with the same training share it."""

    config: Config
    """The configuration, with project and name."""
    cells: tuple[Cell, ...]
    run: ExistingRun | None = None
    """The run, if it already exists. A finished one is not trained again, another one is resumed."""
    first_stage: Path | None = None
    """Folder of a run that trains the same representation stage, which this run continues with its own second
    stage. None: this run trains its representation stage, or exists already."""
    after: tuple[Path, ...] = ()
    """Folders of runs of the plan that have to be finished before."""
    group: str = ""
    """Jobs of the same group stay on one machine. It depends on the settings alone, not on existing runs."""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        if self.run:
            return self.run.folder
        return self.config.engine.project / self.config.data.dataset / str(self.config.engine.name)

    @property
    def finished(self) -> bool:
        """True if there is nothing to do."""
        return self.run is not None and self.run.finished

    @property
    def running(self) -> bool:
        """True if another process trains the run. It is neither started nor resumed."""
        return self.run is not None and not self.run.finished and self.run.running
