"""The verbs: parse, call one function, print."""

import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import fasticcl
from fasticcl.errors import Stopped, TrainingFailed, UserError

if TYPE_CHECKING:
    from fasticcl.engine.training import Report

app = typer.Typer(
    help="Train image classifiers on long-tailed data with ICCL, fed by NVIDIA DALI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_CONVERSION = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode; default: one per core.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or gpu.", metavar="DEVICE")]


@app.command()
def train(
    dataset: Annotated[str | None, typer.Argument(help="A dataset preset: see `fasticcl presets`.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the shards.", metavar="DIR")] = None,
    method: Annotated[str | None, typer.Option(help="iccl, ce, mixup or crt.", metavar="NAME")] = None,
    imbalance: Annotated[int | None, typer.Option(help="CIFAR-LT: 100, 50 or 10.", metavar="RATIO")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the representation stage; T follows.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs of images in a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and plan.")] = None,
    device: Device = None,
    workers: Workers = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    project: Annotated[
        Path | None, typer.Option(help="Folder of all runs; default: runs.", metavar="DIR")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run --name, or the newest.")] = False,
    fast_dev_run: Annotated[
        bool, typer.Option("--fast-dev-run", help="Take a few steps of every phase, to see that all works.")
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print the resolved configuration, a valid -c file, and leave."),
    ] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file.", metavar="FILE")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, repeatable.", metavar="SECTION.KEY=VALUE")
    ] = None,
) -> None:
    """Train both stages on a dataset."""
    chosen = {
        "method": method,
        "data": data,
        "imbalance": imbalance,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "device": device,
        "workers": workers,
        "name": name,
        "project": project,
        "fast_dev_run": fast_dev_run or None,
        "config": config,
        "set": assign or (),
    }
    from fasticcl.data.memory import keep_freed_memory

    if print_config:
        typer.echo(fasticcl.configure(dataset, **chosen).to_toml(), nl=False)
        return
    keep_freed_memory()  # the process is ours
    console = Console()
    report = fasticcl.train(dataset, resume=resume, console=console, **chosen)
    _print_report(console, report)
    other = "train demo --method ce" if report.run.parent.name == "demo" else "presets"
    run, written = (shlex.quote(str(path)) for path in (report.run, report.run / "config.toml"))
    _print_lines(
        console,
        f"Next: fasticcl eval {run}    the same numbers again, from the saved weights",
        f"      fasticcl train -c {written} --name again    the same run again",
        f"      fasticcl {other}    something to compare with",
    )


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = None,
    workers: Workers = None,
) -> None:
    """Evaluate the saved weights of a run again."""
    report = fasticcl.evaluate(run, device=device, workers=workers)
    if json_output:
        typer.echo(
            json.dumps(
                {"run": str(report.run), "split": report.split, "best_epoch": report.best_epoch} | report.rows
            )
        )
    else:
        _print_report(Console(), report)


@app.command()
def convert(
    layout: Annotated[str, typer.Argument(help="folder: train/CLASS/image and val/CLASS/image, or test/.")],
    source: Annotated[Path, typer.Argument(help="The original dataset.", metavar="SRC")],
    dest: Annotated[Path, typer.Argument(help="Folder of the shards.", metavar="DEST")],
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 2000,
    workers: Workers = None,
    max_corrupt: Annotated[int, typer.Option(min=0, help="Unreadable images that are accepted.")] = 0,
) -> None:
    """Convert a dataset into shards; the same command continues a conversion that was stopped."""
    console = Console()
    with Progress(*_CONVERSION, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("converting", total=None)
        manifest = fasticcl.convert(
            layout,
            source,
            dest,
            shard_size=shard_size,
            workers=workers,
            max_corrupt=max_corrupt,
            report=lambda images, total: bar.update(task, advance=images, total=total),
        )
    for split, info in manifest.splits.items():
        size = sum(shard.bytes for shard in info.shards) / 2**20
        _print_lines(
            console,
            f"{split:<6} {sum(info.class_counts):>9,} images  {len(info.shards)} shards  {size:,.1f} MiB",
        )
    if changed := sum(manifest.reencoded.values()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(manifest.reencoded.items()))
        _print_lines(console, f"{changed} images were stored again ({reasons}).")
    if manifest.quarantined:
        _print_lines(
            console, f"{manifest.quarantined} unreadable images were left out: {dest / 'quarantine.jsonl'}"
        )
    _print_lines(console, f"Next: fasticcl train folder --data {shlex.quote(str(dest))}")


@app.command()
def presets(name: Annotated[str | None, typer.Argument(help="Show this preset.")] = None) -> None:
    """List the presets, or show one with its sources."""
    from fasticcl.resolve import preset_names, preset_text

    if name:
        kind: Literal["dataset", "method"] = "method" if name in preset_names("method") else "dataset"
        typer.echo(preset_text(name, kind), nl=False)
        return
    for kind, use in (("dataset", "fasticcl train NAME"), ("method", "--method NAME")):
        typer.echo(f"{kind} presets ({use}):")
        for each in preset_names(kind):
            typer.echo(f"  {each:<12} {preset_text(each, kind).splitlines()[0].removeprefix('# ')}")


def _print_report(console: Console, report: "Report") -> None:
    from fasticcl.engine.evaluate import METRICS
    from fasticcl.engine.progress import percent

    titles = {
        "before": "before rebalancing",
        "after": "after rebalancing",
        "last": "last epoch",
        "best": f"best epoch ({report.best_epoch}), chosen on these images",
    }
    table = Table("top-1 accuracy, %", title=f"Evaluated on {report.split}", title_justify="left")
    for column in ("overall", "many", "medium", "few"):
        table.add_column(column, justify="right")
    for name, metrics in report.rows.items():
        table.add_row(titles[name], *(percent(metrics[key]) for key in METRICS))
    console.print(table)


def _print_lines(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def main() -> NoReturn:
    """Run the command line: 0 done, 1 failed, 2 bad input, 130 or 143 stopped by a signal."""
    try:
        app()
    except UserError as error:
        _leave(2, f"error: {error}")
    except TrainingFailed as error:
        _leave(1, f"error: {error}")
    except Stopped as stopped:
        _leave(128 + stopped.signum, f"\n{stopped}; the state is saved. Continue with:\n  {stopped.command}")
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT, "interrupted")
    sys.exit(0)


def _leave(code: int, message: str) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)
