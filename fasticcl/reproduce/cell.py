"""One result of a table: a row and a column with a seed."""

from dataclasses import dataclass, replace
from pathlib import Path

from fasticcl.config import Config
from fasticcl.paper.table import PaperColumn, PaperRow


@dataclass(frozen=True)
class Cell:
    """One row and column of a table with one seed."""

    row: PaperRow
    column: PaperColumn
    config: Config
    """The configuration of the run, with the seed."""
    published: Config
    """The paper's protocol for the cell. Differences from ``config`` are marked in the result."""

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.engine.seed

    def on(self, folder: Path) -> "Cell":
        """Return the cell with the folder of its shards."""
        data = self.config.data.model_copy(update={"dir": folder})
        return replace(self, config=self.config.model_copy(update={"data": data}))

    def with_seed(self, seed: int) -> "Cell":
        """Return the cell with another seed."""
        engine = self.config.engine.model_copy(update={"seed": seed})
        return replace(self, config=self.config.model_copy(update={"engine": engine}))
