"""A request to `fasticcl reproduce`."""

from dataclasses import dataclass, field
from pathlib import Path

from fasticcl.config import Recipe
from fasticcl.config.layers import Layer


@dataclass(frozen=True)
class Request:
    """A table of the paper, the part of it that is wanted, and how it is trained."""

    table: str
    """Name of a table or figure, such as ``table1``."""
    rows: tuple[str, ...] = ()
    """Names of rows or their methods. Empty: all."""
    columns: tuple[str, ...] = ()
    """Names of columns or their datasets. Empty: all."""
    seeds: int = 3
    """Number of seeds, counted from 0."""
    epochs: int | None = None
    """Epochs of the representation stage instead of the paper's. T and the warm-up of the learning rate keep
    their share of the epochs, and the second stage keeps its length."""
    encoder: str | None = None
    """Encoder instead of the paper's."""
    recipe: Recipe | None = None
    """Schedule of all rows. None: the paper's for its own runs, and that of the authors for figures that the
    paper quotes."""
    on: str | None = None
    """A dataset preset or a folder of shards that replaces the datasets of the paper."""
    data_root: Path = Path("data")
    """Folder with the shards of each dataset."""
    project: Path = Path("runs")
    """Folder that contains the runs."""
    settings: Layer = field(default_factory=dict)
    """Further settings, for the rows that use them."""
    part: tuple[int, int] = (1, 1)
    """(I, N): train only part I of N, counted from 1."""
