"""The runs that a table needs, and the order in which they are trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from fasticcl.config import Config
from fasticcl.errors import UserError
from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.cell import Cell
from fasticcl.reproduce.existing_runs import ExistingRun, ExistingRuns
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.planning.cell_list import CellList
from fasticcl.reproduce.planning.job_list import JobList
from fasticcl.reproduce.planning.selection import folder_of, selected_table
from fasticcl.reproduce.planning.shard_folder import ShardFolder
from fasticcl.reproduce.request import Request


@dataclass(frozen=True)
class Plan:
    """The jobs of a table, in an order in which each follows those that it needs."""

    cells: Sequence[Cell]
    """The cells that the jobs compute."""
    jobs: Sequence[Job]
    problems: Sequence[str] = field(default_factory=list)
    """Cells that cannot be computed and runs that cannot be used, with the reason."""
    notes: Sequence[str] = field(default_factory=list)
    """Settings of the request that have no effect in some rows, and runs on other images."""
    table: PaperTable | None = None
    """The table with the selected rows and columns, or with those of another dataset."""

    def job_of(self, cell: Cell) -> Job:
        """Return the job that computes a cell."""
        return self._job_of_cell[_position(cell)]

    @cached_property
    def _job_of_cell(self) -> dict[tuple[str, str, int], Job]:
        return {_position(cell): job for job in self.jobs for cell in job.cells}

    def part(self, number: int, parts: int) -> "Plan":
        """Return the jobs of one of several machines.

        Jobs that use the first stage or the network of another one are in the same part. The parts contain
        about the same number of epochs, and do not depend on the runs that exist already, so a machine that
        continues later has the same part.

        Args:
            number: the part, counted from 1.
            parts: number of parts.

        Raises:
            UserError: there is no such part.
        """
        if not 1 <= number <= parts:
            raise UserError(f"--part expects I/N with I from 1 to N, for example 1/3, got {number}/{parts}.")
        groups: dict[str, list[Job]] = {}
        for job in self.jobs:
            groups.setdefault(job.group, []).append(job)
        epochs = {key: _epochs(group) for key, group in groups.items()}
        loads, part_of = [0] * parts, {}
        for group in sorted(groups, key=lambda key: (-epochs[key], key)):
            part_of[group] = lightest = loads.index(min(loads))
            loads[lightest] += epochs[group]
        jobs = [job for job in self.jobs if part_of[job.group] == number - 1]
        positions = {_position(cell) for job in jobs for cell in job.cells}
        return replace(self, jobs=jobs, cells=[cell for cell in self.cells if _position(cell) in positions])


def build_plan(request: Request, *, require_shards: bool = True) -> Plan:
    """Return the plan of a request: all its cells, and the runs that exist or have to be trained.

    It does not depend on ``request.part``, see `Plan.part`.

    Args:
        request: the request.
        require_shards: if False, cells whose shards are missing are planned, too. They are also among the
            problems.

    Raises:
        UserError: an unknown table, row, column, dataset or setting, or a setting that no row uses.
    """
    if request.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {request.seeds}.")
    table = selected_table(request)
    existing = ExistingRuns(request.project.expanduser())
    cell_list = CellList.of(table, request)
    shards, problems = _find_shards(cell_list.cells, request)
    cells = []
    for cell in cell_list.cells:
        folder = shards.get(cell.column.name)
        if folder:
            cells.append(cell.on(folder.path))
        elif _is_finished(existing.find(cell.config)):
            cells.append(cell)  # the result does not need the shards
        elif not require_shards:
            cells.append(cell.on(next(_folders(cell.config, request))))
    checksums = {name: folder.checksum for name, folder in shards.items()}
    jobs = JobList(existing, checksums).jobs_of(cells)
    problems = [*cell_list.problems, *problems, *existing.problems]
    return Plan(cells, jobs, problems, [*cell_list.notes, *existing.notes], table)


def _find_shards(cells: Sequence[Cell], request: Request) -> tuple[dict[str, ShardFolder], list[str]]:
    """Return the shards by column name, and the columns without shards with the reason."""
    configs = {cell.column.name: cell.config for cell in reversed(cells)}
    found, problems = {}, []
    for name in dict.fromkeys(cell.column.name for cell in cells):
        try:
            found[name] = ShardFolder.find(configs[name], [*_folders(configs[name], request)])
        except UserError as error:
            problems.append(str(error))
    return found, [*dict.fromkeys(problems)]


def _folders(config: Config, request: Request) -> Iterator[Path]:
    """Yield the folders in which the shards of a dataset and ratio are expected."""
    if folder := folder_of(request.on):
        yield folder
        return
    data, root = config.data, request.data_root.expanduser()
    if data.imbalance:
        yield root / f"{data.dataset}-{data.imbalance}"
    yield root / data.dataset
    if request.on:
        yield data.dir  # of the preset


def _is_finished(run: ExistingRun | None) -> bool:
    return run is not None and run.finished


def _position(cell: Cell) -> tuple[str, str, int]:
    return cell.row.name, cell.column.name, cell.seed


def _epochs(jobs: Sequence[Job]) -> int:
    """Return the epochs of the jobs of a group. Those with the same first stage train it once."""
    first = {job.config.method.first_stage: job.config.optim.epochs for job in jobs}
    return sum(first.values()) + sum(job.config.rebalance.trained_epochs for job in jobs)
