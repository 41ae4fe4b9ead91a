"""Options that several verbs share."""

from typing import Annotated

import typer

from fasticcl.cli import completion

Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode; default: one per core.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or gpu.", metavar="DEVICE")]
Assign = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any setting, repeatable.",
        metavar="SECTION.KEY=VALUE",
        autocompletion=completion.settings,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors alone.")]
