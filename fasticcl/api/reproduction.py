"""The tables and figures of the paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fasticcl.config import Recipe
from fasticcl.config.layers import as_layer, merge
from fasticcl.errors import UserError
from fasticcl.options import DeviceName, Option, Progress, Settings, documented

if TYPE_CHECKING:
    from fasticcl.reproduce.reproduction import Reproduction

Names = str | Sequence[str]
Rows = Annotated[
    Names, Option("Rows or methods, such as ce,iccl. None: all.", metavar="NAME,NAME...", complete="rows")
]
Columns = Annotated[
    Names,
    Option(
        "Columns or datasets, such as cifar100-lt-100. None: all.",
        metavar="NAME,NAME...",
        complete="columns",
    ),
]
Epochs = Annotated[
    int | None,
    Option("Epochs of the first stage instead of the paper's. Its schedule is scaled.", min=1),
]
Encoder = Annotated[str | None, Option("Encoder instead of the paper's.", metavar="NAME")]
Schedule = Annotated[
    Recipe | None,
    Option(
        "Training schedule of all rows: preset (the same for all methods, so rows can be compared and share "
        "runs) or published (from the authors of each method). None: the paper's for its own runs, and the "
        "published one for figures that the paper quotes.",
        metavar="NAME",
        complete="recipes",
    ),
]
OtherDataset = Annotated[
    str | Path | None,
    Option(
        "Compute the rows on another dataset: a preset, such as demo, or a folder of shards.",
        metavar="DATASET",
        complete="datasets",
    ),
]
DataRoot = Annotated[str | Path, Option("Folder that contains the shards of each dataset.", metavar="DIR")]
Project = Annotated[str | Path, Option("Folder of the runs and of the table.", metavar="DIR")]
Threads = Annotated[
    int | None, Option("Threads of each run that decode images. None: the cores are divided.", min=1)
]
Jobs = Annotated[
    int | None, Option("Runs to train at the same time. None: one for each GPU, or one on a CPU.", min=1)
]
Part = Annotated[
    str | None,
    Option("Train only part I of N, for a job array. The parts may share a project.", metavar="I/N"),
]


@documented
def reproduce(
    table: Annotated[str, Option("table1 to table8, figure3 or figure4.", complete="tables")],
    *,
    rows: Rows = (),
    columns: Columns = (),
    seeds: Annotated[int, Option("Number of seeds, counted from 0.", min=1)] = 3,
    epochs: Epochs = None,
    encoder: Encoder = None,
    recipe: Schedule = None,
    on: OtherDataset = None,
    data_root: DataRoot = "data",
    project: Project = "runs",
    set: Settings = (),
    device: DeviceName = None,
    workers: Threads = None,
    dry_run: Annotated[bool, Option("Only print the runs and the time that they take.")] = False,
    jobs: Jobs = None,
    part: Part = None,
    console: Progress = None,
) -> "Reproduction":
    """Train the runs of a table or figure of the paper, and write it with the results beside the paper's.

    Runs that the project already has are not trained again, interrupted ones are continued, and failed ones
    are named and passed over. The table is written to PROJECT as TABLE.html, TABLE.md, TABLE.tex and
    TABLE.json.

    Raises:
        UserError: invalid input, or no cell can be computed.
        Stopped: SIGINT or SIGTERM stopped the runs. Their state is saved, and the same call continues.
    """
    from fasticcl.reproduce.reproduction import parse_part, reproduce_table, split_names
    from fasticcl.reproduce.request import Request

    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}.")
    engine = {key: value for key, value in (("device", device), ("workers", workers)) if value is not None}
    request = Request(
        table=table,
        rows=split_names(rows),
        columns=split_names(columns),
        seeds=seeds,
        epochs=epochs,
        encoder=encoder,
        recipe=recipe,
        on=None if on is None else str(on),
        data_root=Path(data_root).expanduser(),
        project=Path(project).expanduser(),
        settings=merge([as_layer(set), {"engine": engine}]),
        part=parse_part(part),
    )
    return reproduce_table(request, jobs=jobs, dry_run=dry_run, console=console)
