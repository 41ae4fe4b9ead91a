"""A table or figure of the paper, computed from its plan to its files."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fasticcl.console import print_lines
from fasticcl.errors import Stopped, UserError
from fasticcl.method.encoders import find_encoder
from fasticcl.paper.protocol import protocol_differences
from fasticcl.reproduce.estimate import Estimate, estimate
from fasticcl.reproduce.files import write_result
from fasticcl.reproduce.plan import Plan, build_plan
from fasticcl.reproduce.request import Request
from fasticcl.reproduce.result import TableResult, table_result
from fasticcl.reproduce.runner import Failure, run_plan
from fasticcl.reproduce.training.slots import machine_slots


@dataclass(frozen=True)
class Reproduction:
    """The plan of a table or figure, and its result or the estimated time."""

    plan: Plan
    """The runs. With ``part``, those of the part."""
    part: tuple[int, int] = (1, 1)
    """(I, N), if the runs are part I of N."""
    estimate: Estimate | None = None
    """Only of a dry run."""
    result: TableResult | None = None
    """None: it was a dry run."""
    files: Sequence[Path] = ()
    """The written files, the page first."""
    failures: Sequence[Failure] = ()
    """Runs that failed or need one that failed."""


def reproduce_table(
    request: Request,
    *,
    jobs: int | None = None,
    dry_run: bool = False,
    console: Console | None = None,
) -> Reproduction:
    """Train the runs of a table that do not exist yet, and write the table.

    The table contains all finished runs of the project. It is also written if runs fail or a signal stops
    them.

    Args:
        request: the table and how it is trained.
        jobs: number of runs that are trained at the same time. None: one for each GPU, or one on a CPU.
        dry_run: only plan the runs and estimate their time.
        console: shows the progress, or None for no output.

    Raises:
        UserError: invalid input, or no cell can be computed.
        Stopped: a signal stopped the runs, which have saved their state.
    """
    plan = build_plan(request, require_shards=not dry_run)
    part = plan.part(*request.part)
    if not plan.jobs:
        reasons = "".join(f"\n  {problem}" for problem in plan.problems)
        raise UserError(f"No cell of {request.table} can be computed:{reasons}")
    for encoder in {job.config.method.encoder for job in part.jobs}:
        find_encoder(encoder)
    if dry_run:
        slots = machine_slots(part, jobs)
        if console and not console.is_terminal:  # a terminal shows the progress
            console.print("measuring steps to estimate the time, which takes about a minute")
        return Reproduction(part, request.part, estimate(part, len(slots), console))
    console = console or Console(quiet=True)
    warnings = Console(stderr=True) if console.quiet else console
    print_lines(warnings, [f"warning  {text}" for text in plan.problems])
    print_lines(console, [f"note     {text}" for text in plan.notes])
    command = command_line(request, jobs)
    try:
        failures = run_plan(part, jobs, console, command)
    except Stopped:
        try:
            _write(request, (), command)
        except UserError as error:
            print_lines(warnings, [f"warning  {error}"])
        raise
    result, files = _write(request, failures, command)
    return Reproduction(part, request.part, None, result, files, failures)


def _write(request: Request, failures: Sequence[Failure], command: str) -> tuple[TableResult, list[Path]]:
    """Write the table of all cells, including those of other parts."""
    plan = build_plan(request)  # again, because runs were trained meanwhile
    reasons = {failure.job.folder: failure.reason for failure in failures}
    assert plan.table is not None
    result = table_result(
        plan, plan.table, differences=protocol_differences, command=command, failures=reasons
    )
    return result, write_result(result, request.project)


def parse_part(text: str | None) -> tuple[int, int]:
    """Return (I, N) from ``I/N``. None is the whole, (1, 1).

    Raises:
        UserError: it is not a part.
    """
    if text is None:
        return 1, 1
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise UserError(f"--part expects I/N with I from 1 to N, for example 1/3, got {text!r}.")
    return int(number), int(parts)


def command_line(request: Request, jobs: int | None) -> str:
    """Return the command line of a request, with the options that are not the defaults."""
    words, default = ["fasticcl", "reproduce", request.table], Request(request.table)
    for name in ("rows", "columns", "seeds", "epochs", "encoder", "recipe", "on", "data_root", "project"):
        value = getattr(request, name)
        if value != getattr(default, name):
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    for section, values in request.settings.items():
        for key, value in values.items():
            if (section, key) in (("engine", "device"), ("engine", "workers")):
                words += [f"--{key}", str(value)]
            else:
                words += ["--set", f"{section}.{key}={json.dumps(value, default=str)}"]
    if jobs:
        words += ["--jobs", str(jobs)]
    if request.part != default.part:
        words += ["--part", "{}/{}".format(*request.part)]
    return shlex.join(words)


def split_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names in one comma-separated string or in several."""
    texts = [names] if isinstance(names, str) else names
    return tuple(name for text in texts for name in map(str.strip, text.split(",")) if name)
