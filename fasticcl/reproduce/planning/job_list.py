"""The jobs that compute cells: shared runs, shared first stages and the order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fasticcl.engine.stages.m2m import seed_config
from fasticcl.reproduce.cell import Cell
from fasticcl.reproduce.existing_runs import ExistingRuns
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.planning.run_name import run_name
from fasticcl.reproduce.run_key import first_stage_key, run_key


@dataclass(frozen=True)
class JobList:
    """Creates the jobs of cells.

    Args:
        existing: the runs of the project.
        checksums: first digits of the checksum of the data by column name, as far as they are known.
    """

    existing: ExistingRuns
    checksums: Mapping[str, str]

    def jobs_of(self, cells: Sequence[Cell]) -> list[Job]:
        """Return the jobs of cells in their order, but each job after those that it needs."""
        shared: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells:
            shared.setdefault((run_key(cell.config), self.checksums.get(cell.column.name, "")), []).append(
                cell
            )
        jobs = [self._job(of_run) for of_run in shared.values()]
        groups: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            groups.setdefault((first_stage_key(job.config), self._checksum(job)), []).append(job)
        sources = {key: self._source(group) for key, group in groups.items()}
        jobs = [_continue(job, *sources[first_stage_key(job.config), self._checksum(job)]) for job in jobs]
        of_training = dict(zip(shared, jobs, strict=True))
        return _ordered([self._with_seed_run(job, of_training) for job in jobs])

    def _checksum(self, job: Job) -> str:
        return self.checksums.get(job.cells[0].column.name, "")

    def _job(self, cells: list[Cell]) -> Job:
        config, checksum = cells[0].config, self.checksums.get(cells[0].column.name, "")
        run = self.existing.find(config, checksum)
        runs = config.engine.project / config.data.dataset
        name = run.folder.name if run else _free_name(runs, run_name(config))
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"name": name})})
        guiding = seed_config(config) if config.seed_epochs else config
        return Job(config, tuple(cells), run, group=f"{first_stage_key(guiding)} {checksum}")

    def _source(self, group: list[Job]) -> tuple[Path | None, bool]:
        """Return the folder whose first stage new jobs can use, and True if it is not trained yet."""
        source = self.existing.with_first_stage(group[0].config, self._checksum(group[0]))
        if source:
            return source.folder, False
        training = [job for job in group if not (job.run and job.run.first_stage_finished)]
        if not training:
            return None, False
        # A run without a second stage is finished earlier.
        leader = max(training, key=lambda job: (not job.config.rebalance.enabled, job.run is not None))
        return leader.folder, True

    def _with_seed_run(self, job: Job, of_training: Mapping[tuple[str, str], Job]) -> Job:
        """Let a new run of M2m use the network of the run of cross-entropy with the same data and seed."""
        if job.run or not job.config.seed_epochs:
            return job
        config, checksum = seed_config(job.config), self._checksum(job)
        config = config.model_copy(
            update={"rebalance": config.rebalance.model_copy(update={"epochs": 0, "readout": "none"})}
        )
        planned = of_training.get((run_key(config), checksum))
        existing = self.existing.find(config, checksum)
        if planned:
            folder = planned.folder
        elif existing and existing.finished:
            folder = existing.folder
        else:
            return job
        method = job.config.method.model_copy(update={"seed_run": folder})
        after = () if planned is None or planned.finished else (folder,)
        return replace(
            job, config=job.config.model_copy(update={"method": method}), after=(*job.after, *after)
        )


def _continue(job: Job, source: Path | None, is_trained: bool) -> Job:
    """Let a new job with a second stage continue from another run with the same first stage."""
    if source is None or job.run or not job.config.rebalance.enabled or job.folder == source:
        return job
    return replace(job, first_stage=source, after=(source,) if is_trained else ())


def _free_name(folder: Path, stem: str) -> str:
    """Return the name, with a number if another run or a damaged one has it."""
    name, number = stem, 1
    while (folder / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def _ordered(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs in their order, but each after those that it needs."""
    of_folder = {job.folder: job for job in jobs}
    done: dict[Path, Job] = {}

    def add(job: Job) -> None:
        for folder in job.after:
            if folder in of_folder and folder not in done:
                add(of_folder[folder])
        done.setdefault(job.folder, job)

    for job in jobs:
        add(job)
    return [*done.values()]
