"""The tables and figures of the paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fasticcl.config.layers import as_layer, merge
from fasticcl.errors import UserError
from fasticcl.options import DeviceName, Option, Progress, Settings, documented

if TYPE_CHECKING:
    from fasticcl.reproduce.reproduction import Reproduction

_ON = "Compute the rows on another dataset: a preset, such as demo, or a folder of shards."
_EPOCHS = "Epochs of the first stage instead of the paper's. Its schedule is scaled."
_JOBS = "Runs to train at the same time. None: one for each GPU, or one on a CPU."
_PART = "Train only part I of N, for a job array. The parts may share a project."


@documented
def reproduce(
    table: Annotated[str, Option("table1 to table8, figure3 or figure4.", complete="tables")],
    *,
    rows: Annotated[
        str | Sequence[str],
        Option("Rows or methods, such as ce,iccl. None: all.", metavar="NAME,NAME...", complete="rows"),
    ] = (),
    columns: Annotated[
        str | Sequence[str],
        Option(
            "Columns or datasets, such as cifar100-lt-100. None: all.",
            metavar="NAME,NAME...",
            complete="columns",
        ),
    ] = (),
    seeds: Annotated[int, Option("Number of seeds, counted from 0.", min=1)] = 3,
    epochs: Annotated[int | None, Option(_EPOCHS, min=1)] = None,
    encoder: Annotated[str | None, Option("Encoder instead of the paper's.", metavar="NAME")] = None,
    on: Annotated[str | None, Option(_ON, metavar="DATASET", complete="datasets")] = None,
    data_root: Annotated[
        str | Path, Option("Folder that contains the shards of each dataset.", metavar="DIR")
    ] = "data",
    project: Annotated[str | Path, Option("Folder of the runs and of the table.", metavar="DIR")] = "runs",
    set: Settings = (),
    device: DeviceName = None,
    workers: Annotated[
        int | None, Option("Threads of each run that decode images. None: the cores are divided.", min=1)
    ] = None,
    dry_run: Annotated[bool, Option("Only print the runs and the time that they take.")] = False,
    jobs: Annotated[int | None, Option(_JOBS, min=1)] = None,
    part: Annotated[str | None, Option(_PART, metavar="I/N")] = None,
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
    from fasticcl.reproduce.reproduction import command_line, parse_part, reproduce_table, split_names
    from fasticcl.reproduce.request import Request

    for name, count in (("seeds", seeds), ("jobs", jobs)):
        if count is not None and count < 1:
            raise UserError(f"--{name} must be at least 1, got {count}.")
    chosen_rows, chosen_columns = split_names(rows), split_names(columns)
    engine = {key: value for key, value in (("device", device), ("workers", workers)) if value is not None}
    request = Request(
        table=table,
        rows=chosen_rows,
        columns=chosen_columns,
        seeds=seeds,
        epochs=epochs,
        encoder=encoder,
        on=on,
        data_root=Path(data_root),
        project=Path(project),
        settings=merge([as_layer(set), {"engine": engine}]),
        part=parse_part(part),
    )
    options = {
        "rows": ",".join(chosen_rows),
        "columns": ",".join(chosen_columns),
        "seeds": None if seeds == 3 else seeds,
        "epochs": epochs,
        "encoder": encoder,
        "on": on,
        "data_root": None if str(data_root) == "data" else data_root,
        "project": None if str(project) == "runs" else project,
        "set": [set] if isinstance(set, str) else set,
        "device": device,
        "workers": workers,
        "jobs": jobs,
        "part": part,
    }
    command = command_line(table, options)
    return reproduce_table(request, jobs=jobs, dry_run=dry_run, command=command, console=console)
