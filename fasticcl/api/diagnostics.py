"""Looking at runs and at the machine."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasticcl.bench.result import Result
    from fasticcl.data.plan import Phase
    from fasticcl.doctor.finding import Finding


def benchmark(
    what: str,
    dataset: str | None = None,
    *,
    data: str | Path | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    encoder: str | None = None,
    phase: "Phase | None" = None,
    device: str | None = None,
    workers: int | None = None,
    repeats: int = 5,
    seconds: float | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> "Result":
    """Measure how fast this machine is and return the figures; ``fasticcl bench`` is the same call.

    Args:
        what: plan, loader, step, train, convert or all.
        dataset: name of a dataset preset; None: that of the shards, else folder.
        data: folder of the shards, of convert a folder of images; None: that of ``config``, and without
            one images are made.
        images: how many are made.
        batch_size: pairs of images in a step.
        image_size: side that the network sees, in pixels.
        encoder: name of the CNN encoder.
        phase: warmup, interpolative or rebalance; None: interpolative.
        device: auto, cpu or gpu.
        workers: threads that decode, or convert.
        repeats: runs of each measurement.
        seconds: length of a run, after its warm-up; None: 1.5, with a GPU 3.
        config: TOML file with any part of the configuration.
        set: further settings, as {"section.key": value} or ["section.key=value"].
        say: called with what is being measured.

    Raises:
        UserError: bad input, in one sentence.
    """
    from fasticcl.bench import suite

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
        assignments=[f"{key}={value}" for key, value in set.items()] if isinstance(set, Mapping) else set,
        say=say or suite.silent,
    )


def doctor(data: str | Path | None = None) -> "list[Finding]":
    """Look at Python, packages, driver, GPUs and limits, and return what was found, thing by thing.

    Torch and DALI are tried in processes of their own, so that it also works where they do not.

    Args:
        data: folder of shards; a sample of them is checked and the speed of their disk measured.
    """
    from fasticcl.doctor.examine import examine

    return examine(Path(data) if data else None)


def report(
    *runs: str | Path,
    output: str | Path | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> Path:
    """Write the report of a run, or one that compares several, and return its page.

    Beside the page there are the figures as SVG and PNG, the numbers as JSON, and a row for a LaTeX table.

    Args:
        runs: run folders.
        output: folder of the files; None: the run's own, of several ``comparison``.
        device: auto, cpu or gpu, to evaluate the weights on; None: as the run was started.
        workers: threads that decode.

    Raises:
        UserError: no run, a run without a finished epoch, or a folder that cannot be written.
    """
    from fasticcl.report.report import report_comparison, report_run

    folders, target = [Path(run) for run in runs], Path(output) if output else None
    if len(folders) == 1:
        return report_run(folders[0], target, device=device, workers=workers)
    return report_comparison(folders, target or Path("comparison"))
