"""Benchmarks, diagnosis of the machine, and reports of runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console

from fasticcl.options import (
    ConfigFile,
    DeviceName,
    Option,
    Progress,
    RunDevice,
    RunWorkers,
    Settings,
    WorkerThreads,
    documented,
)

if TYPE_CHECKING:
    from fasticcl.bench.result import Result
    from fasticcl.data.plan import Phase
    from fasticcl.doctor.facts import Finding


_SECONDS = Option(
    "Minimum duration of a run in seconds, without warm-up. A run of the loader has at least three batches. "
    "None: 1.5, or 3 on a GPU.",
    min=0.01,
)


@documented
def benchmark(
    what: Annotated[str, "Name of the benchmark: plan, loader, step, train, convert or all."],
    dataset: Annotated[
        str | None,
        Option("Name of a dataset preset. None: that of the shards, or else folder.", complete="datasets"),
    ] = None,
    *,
    data: Annotated[
        str | Path | None,
        Option("Folder of shards, or of images for convert. None: synthetic images.", metavar="DIR"),
    ] = None,
    images: Annotated[
        int | None,
        Option("Number of synthetic images, at least one batch. None: 256, or 2,048 on a GPU.", min=20),
    ] = None,
    batch_size: Annotated[int | None, Option(setting="optim.batch_size", min=1)] = None,
    image_size: Annotated[int | None, Option(setting="data.image_size", min=1)] = None,
    encoder: Annotated[str | None, Option(setting="method.encoder", metavar="NAME")] = None,
    phase: Annotated[
        "Phase | None",
        Option("Training phase: warmup, interpolative or rebalance. None: interpolative.", metavar="PHASE"),
    ] = None,
    device: DeviceName = None,
    workers: WorkerThreads = None,
    repeats: Annotated[int, Option("Number of runs of each measurement.", min=1)] = 5,
    seconds: Annotated[float | None, _SECONDS] = None,
    config: ConfigFile = None,
    set: Settings = (),
    console: Progress = None,
) -> "Result":
    """Measure the throughput of this machine and return the result. `fasticcl bench` has the same options.

    Raises:
        UserError: invalid input.
    """
    from fasticcl.bench import suite

    assignments = [f"{key}={value}" for key, value in set.items()] if isinstance(set, Mapping) else set
    with (console or Console(quiet=True)).status("starting") as status:
        return suite.benchmark(
            what,
            dataset,
            data=Path(data) if data else None,
            images=images,
            batch_size=batch_size,
            image_size=image_size,
            encoder=encoder,
            phase=phase,
            device=device,
            workers=workers,
            repeats=repeats,
            seconds=seconds,
            config=Path(config) if config else None,
            assignments=assignments,
            show_status=status.update,
        )


@documented
def doctor(
    data: Annotated[
        str | Path | None,
        Option(
            "Folder of shards. A sample of them is checked, and the read speed of their disk is measured.",
            flags=("--data",),
            metavar="DIR",
        ),
    ] = None,
) -> "list[Finding]":
    """Check Python, packages, driver, GPUs and resource limits, and return the findings.

    torch and DALI are tested in subprocesses, so the check completes even if they crash.
    """
    from fasticcl.doctor.examine import examine

    return examine(Path(data) if data else None)


@documented
def report(
    *runs: Annotated[str | Path, Option("Run folders. Several are compared.", metavar="RUN")],
    output: Annotated[
        str | Path | None,
        Option(
            "Output folder. None: the folder of the run, or ./comparison for several runs.",
            flags=("--output", "-o"),
            metavar="DIR",
        ),
    ] = None,
    device: RunDevice = None,
    workers: RunWorkers = None,
) -> Path:
    """Write the report of a run, or a comparison of several, and return the path of the page.

    The figures (SVG and PNG), the numbers (JSON) and rows of a LaTeX table are written next to the page.

    Raises:
        UserError: there is no run, a run has no evaluated epoch, or the folder is not writable.
    """
    from fasticcl.report.report import report_comparison, report_run

    folders, target = [Path(run) for run in runs], Path(output) if output else None
    if len(folders) == 1:
        return report_run(folders[0], target, device=device, workers=workers)
    return report_comparison(folders, target or Path("comparison"))
