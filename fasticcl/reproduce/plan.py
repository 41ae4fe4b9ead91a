"""The runs that a table needs, and the order in which they are trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fasticcl.config import Config
from fasticcl.paper.table import PaperColumn, PaperRow
from fasticcl.reproduce.existing_runs import ExistingRun


@dataclass(frozen=True)
class Cell:
    """One row and column of a table with one seed."""

    row: PaperRow
    column: PaperColumn
    config: Config
    """What is trained, with the seed."""
    published: Config
    """The paper's protocol for the cell. Differences from ``config`` are marked in the result."""

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.engine.seed


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
    stage. None: this run trains its representation stage."""
    after: tuple[Path, ...] = ()
    """Folders of runs that have to be finished before."""

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


@dataclass(frozen=True)
class Plan:
    """The jobs of a table, in an order in which each follows those that it needs."""

    cells: Sequence[Cell]
    jobs: Sequence[Job]
    problems: Sequence[str] = field(default_factory=list)
    """Cells that cannot be computed, with the reason."""

    def job_of(self, cell: Cell) -> Job:
        """Return the job that computes a cell."""
        return next(job for job in self.jobs if cell in job.cells)
