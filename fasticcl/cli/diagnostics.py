"""Commands that inspect the machine and runs."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from fasticcl.api import diagnostics
from fasticcl.cli.command import Json, command
from fasticcl.console import print_lines

if TYPE_CHECKING:
    from fasticcl.doctor.facts import Finding

app = typer.Typer()


@command(
    app,
    diagnostics.report,
    "fasticcl report runs/inat2018/iccl-1",
    "fasticcl report runs/inat2018/iccl-* runs/inat2018/ce-* --output comparison",
)
def report(runs: list[Path], **options: Any) -> None:
    """Write the report of a run, or a comparison of several runs.

    Writes report.html and, next to it, the figures (SVG and PNG), the numbers (JSON) and rows of a LaTeX
    table. A comparison shows the mean and the standard deviation over the seeds of each configuration.
    """
    with Console(stderr=True).status("writing the report"):
        page = diagnostics.report(*runs, **options)
    print_lines(Console(), [str(page)])


@command(app, diagnostics.doctor, "fasticcl doctor", "fasticcl doctor --data data/inat2018 --json")
def doctor(*, json_output: Json = False, **options: Any) -> None:
    """Check this machine and report problems.

    Each warning or error is followed by a recommended fix. The exit code is 1 if an error prevents training.
    """
    with Console(stderr=True).status("checking the machine"):
        findings = diagnostics.doctor(**options)
    if json_output:
        typer.echo(json.dumps([finding.to_dict() for finding in findings], indent=1, ensure_ascii=False))
    else:
        print_lines(Console(), finding_lines(findings))
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(1)


def finding_lines(findings: "list[Finding]") -> Iterator[Text]:
    """Yield the findings of doctor with their advice, then the number of findings by status."""
    colors = {"ok": "green", "warning": "yellow", "error": "red"}
    width = max(len(finding.name) for finding in findings) + 2
    for finding in findings:
        status = (f"{finding.status:<9}", colors[finding.status])
        yield Text.assemble(status, f"{finding.name:<{width}}{finding.found}")
        if finding.advice:
            yield Text(f"{'':<{9 + width}}to do: {finding.advice}")
    counts = Counter(finding.status for finding in findings)
    yield Text(f"ok {counts['ok']}, warnings {counts['warning']}, errors {counts['error']}")
