"""The jobs that compute cells: shared runs, shared first stages and the order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fasticcl.reproduce.cell import Cell
from fasticcl.reproduce.existing_runs import ExistingRuns
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.planning.run_name import run_name
from fasticcl.reproduce.run_key import first_stage_key, run_key, seed_run_config

Key = tuple[str, str]
"""Key of a training or of a first stage, and the checksum of its data."""


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
        shared: dict[Key, list[Cell]] = {}
        for cell in cells:
            shared.setdefault((run_key(cell.config), self._checksum(cell)), []).append(cell)
        jobs = {key: self._job(of_run) for key, of_run in shared.items()}
        groups: dict[Key, list[Key]] = {}
        for key, job in jobs.items():
            groups.setdefault((first_stage_key(job.config), key[1]), []).append(key)
        for keys in groups.values():
            group = self._with_first_stage([jobs[key] for key in keys])
            jobs.update(zip(keys, group, strict=True))
        return _ordered([self._with_seed_run(job, jobs) for job in jobs.values()])

    def _checksum(self, cell: Cell) -> str:
        return self.checksums.get(cell.column.name, "")

    def _job(self, cells: list[Cell]) -> Job:
        config, checksum = cells[0].config, self._checksum(cells[0])
        run = self.existing.find(config, checksum)
        runs = config.engine.project / config.data.dataset
        name = run.folder.name if run else _free_name(runs, run_name(config))
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"name": name})})
        guiding = seed_run_config(config) if config.seed_epochs else config
        return Job(config, tuple(cells), run, group=f"{first_stage_key(guiding)} {checksum}")

    def _with_first_stage(self, group: list[Job]) -> list[Job]:
        """Let the new jobs with a second stage continue from one run with their first stage."""
        new = [job for job in group if job.run is None and job.config.rebalance.enabled]
        if not new:
            return group
        if source := self.existing.with_first_stage(new[0].config, self._checksum(new[0].cells[0])):
            folder, after = source.folder, ()
        else:
            training = [job for job in group if not (job.run and job.run.first_stage_finished)]
            leader = min(training, key=lambda job: (job.run is None, _second_stage_epochs(job)))
            folder, after = leader.folder, (leader.folder,)
            new = [job for job in new if job is not leader]
        return [
            replace(job, first_stage=folder, after=after) if any(job is each for each in new) else job
            for job in group
        ]

    def _with_seed_run(self, job: Job, jobs: Mapping[Key, Job]) -> Job:
        """Let a new run of M2m use the network of the run of cross-entropy with the same data and seed."""
        if job.run or not job.config.seed_epochs:
            return job
        config, checksum = seed_run_config(job.config), self._checksum(job.cells[0])
        planned = jobs.get((run_key(config), checksum))
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


def _second_stage_epochs(job: Job) -> int:
    """Return the epochs of the second stage, or -1 if there is none."""
    return job.config.rebalance.trained_epochs if job.config.rebalance.enabled else -1


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
