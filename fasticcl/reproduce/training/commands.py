"""Command lines that train the runs of a plan."""

import json
from collections.abc import Sequence
from pathlib import Path

from fasticcl.config import Config
from fasticcl.engine.run.folder import CONFIG, RunFolder
from fasticcl.errors import UserError
from fasticcl.files import write_file
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.run_key import run_key, used_settings
from fasticcl.resolve import second_stage_of


def command_words(job: Job, file: Path, workers: int | None = None) -> list[str]:
    """Return the words after ``fasticcl`` that start or continue a run.

    Args:
        job: the run.
        file: configuration of a new run that trains its representation stage. It is written.
        workers: threads that decode images, unless the configuration sets them.

    Raises:
        UserError: the folder of the run contains a run with other settings, or its representation stage is
            missing.
    """
    folder, engine = job.folder, job.config.engine
    threads = engine.workers or workers
    options = ["--workers", str(threads)] if threads else []
    if (folder / CONFIG).exists():
        if run_key(RunFolder.open(folder).config) != run_key(job.config):
            raise UserError(f"{folder} is a run with other settings. Rename it, or choose another --project.")
        return resume_words(job, options)
    if job.first_stage:
        return rebalance_words(job, RunFolder.open(job.first_stage).config) + options
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, job.config.to_toml().encode())
    return ["train", "-c", str(file), "--project", str(engine.project), "--name", folder.name, *options]


def resume_words(job: Job, options: Sequence[str] = ()) -> list[str]:
    """Return the words that continue an interrupted run."""
    project, dataset, name = job.folder.parent.parent, job.config.data.dataset, job.folder.name
    return ["train", dataset, "--project", str(project), "--name", name, *options, "--resume"]


def rebalance_words(job: Job, first: Config) -> list[str]:
    """Return the words that run the second stage of a job after the representation stage of another run.

    Args:
        job: a job with ``first_stage``.
        first: configuration of that run.
    """
    config = job.config
    method = config.method.name.split("+")[-1]
    preset = second_stage_of(config.data.dataset, method, first.optim.recipe)
    words = ["rebalance", str(job.first_stage), "--method", method, "--name", job.folder.name]
    used = used_settings(config)  # `rebalance` refuses settings that have no effect
    for key, value in config.rebalance.model_dump().items():
        if f"rebalance.{key}" in used and value != preset[key]:
            words += ["--set", f"rebalance.{key}={json.dumps(value)}"]
    if config.engine.report != first.engine.report:
        words += ["--set", f"engine.report={json.dumps(config.engine.report)}"]
    if config.engine.device != first.engine.device:
        words += ["--device", config.engine.device]
    return words
