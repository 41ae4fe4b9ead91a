"""A small table of the demo, and run folders with written records instead of trainings."""

import json

from fasticcl.engine.run.folder import RunFolder
from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.plan import Cell, Job, Plan
from fasticcl.reproduce.result import table_result
from fasticcl.resolve import validate
from fasticcl.shards.manifest import Manifest, SplitInfo

TABLE = """
title = "Accuracy of digits & letters_1"
note = "a note"
[columns.digits]
title = "Digits, 10 %"
dataset = "demo"
metrics = ["overall", "many", "medium", "few", "tail"]
[rows.ce]
title = "CE* [1] <b>|_^"
method = "ce"
note = "copied"
[rows.ce.paper]
digits = [38.3, "-", 30.0, 20.0, 25.0]
[rows.before]
title = "cRT, before"
method = "crt"
result = "before"
[rows.before.paper]
digits = [40.0, "-", 31.0, 21.0, 26.0]
[rows.crt]
title = "cRT, τ_d = 1"
method = "crt"
[rows.crt.paper]
digits = [42.3, "-", 32.0, 22.0, 27.0]
"""
DATA = "97bf6c22514f"
CE = (35.0, 36.5, 38.6)
"""The overall accuracy of CE at the last epoch, by seed."""
ENVIRONMENT = {
    "started": "2026-11-28T12:43:11+00:00",
    "torch": "2.15.0",
    "machine": "CPU, 1 thread",
    "data": DATA,
}


def write_run(config, first, second=(), *, environment=ENVIRONMENT):
    """Write a run with the given accuracies and return its folder.

    Args:
        config: the configuration.
        first: for each recorded epoch of the representation stage, [overall, many, medium, few], or None
            for an epoch without evaluation.
        second: the same of the second stage.
        environment: the record of the start of the run.
    """
    run = RunFolder.create(config)
    records = []
    for stage, epochs in (("representation", first), ("rebalancing", second)):
        for epoch, values in enumerate(epochs, 1):
            values = [None] * 4 if values is None else values
            keys = ("val/top1", "val/many", "val/medium", "val/few")
            records.append(
                {"stage": stage, "phase": stage, "epoch": epoch, **dict(zip(keys, values, strict=True))}
            )
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run.path / "environment.jsonl").write_text(json.dumps(environment) + "\n")
    return run.path


def write_manifest(folder, train, evaluated, **settings):
    """Write the manifest of shards with these images per class, as the data of `write_run`."""
    splits = {
        name: SplitInfo(class_counts=counts, shards=[], index_sha256="")
        for name, counts in (("train", train), ("test", evaluated))
    }
    folder.mkdir(parents=True)
    Manifest(
        dataset="demo",
        classes=[f"class {i}" for i in range(len(train))],
        splits=splits,
        settings=settings,
        source_sha256=DATA + "0" * 52,
        reencoded={},
        quarantined=0,
        quarantine_sha256="",
    ).write(folder)


def plan_of(table, project, *, epochs=3, rebalance_epochs=2, seeds=3, **sections):
    """Return the plan of all cells of a table, without existing runs."""
    cells, jobs = [], []
    for row, column in table.cells:
        published = table.config(row, column)
        for seed in range(seeds):
            values = published.model_dump()
            values["optim"] |= {"epochs": epochs}
            values["engine"] |= {
                "seed": seed,
                "project": project,
                "name": f"{row.name}-{column.name}-s{seed}",
            }
            values["data"] |= {"dir": project / "shards"}
            if published.rebalance.enabled:
                values["rebalance"] |= {"epochs": rebalance_epochs}
            for section, settings in sections.items():
                values[section] |= settings
            cell = Cell(row, column, validate(values), published)
            cells.append(cell)
            jobs.append(Job(cell.config, (cell,)))
    return Plan(cells, jobs)


def epoch_differences(config, published, subset):
    """Return the choice of images, the difference in epochs, and in the weight decay of CE."""
    same = config.optim.epochs == published.optim.epochs
    own = ["weight decay 0 (paper: 5e-4)"] if config.method.name == "ce" else []
    choice = [subset] if subset else []
    return (
        choice if same else [*choice, f"{config.optim.epochs} epochs (paper: {published.optim.epochs})", *own]
    )


def small_result(project, **options):
    """Return the result of `TABLE`: CE has three finished runs, cRT one finished and one interrupted run."""
    table = PaperTable.parse("table9", TABLE)
    plan = plan_of(table, project)
    jobs = {(cell.row.name, cell.seed): job for job in plan.jobs for cell in job.cells}
    for seed, top1 in enumerate(CE):
        write_run(
            jobs["ce", seed].config, [None, [top1 + 2, None, 9.0, 8.0], [top1, None, 30.0, 10.0 + seed]]
        )
    write_run(
        jobs["crt", 0].config,
        [[20.0, None, 18.0, 2.0]] * 3,
        [[44.0, None, 33.0, 23.0], [43.0, None, 33.0, 24.0]],
    )
    write_run(jobs["crt", 1].config, [[21.0, None, 18.0, 2.0]] * 3, [[45.0, None, 33.0, 23.0]])
    write_run(
        jobs["before", 0].config, [[19.0, None, 18.0, 2.0], [22.0, None, 18.0, 2.0], [21.0, None, 18.0, 2.0]]
    )
    options = {"differences": epoch_differences, "command": "fasticcl reproduce table9"} | options
    return table_result(plan, table, **options)
