"""The verbs: parse, call one function, print."""

import json
import os
import shlex
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console

import fasticcl
from fasticcl import tables
from fasticcl.bench.commands import app as bench
from fasticcl.errors import Stopped, TrainingFailed, UserError
from fasticcl.meter import Meter

app = typer.Typer(
    help="Train image classifiers on long-tailed data with ICCL, fed by NVIDIA DALI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(bench, name="bench")

_RANK = (("RANK", "0"), ("WORLD_SIZE", "1"))  # as torchrun sets them

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
    save_every: Annotated[
        str | None, typer.Option(help="Steps (500) or minutes (15m) between checkpoints.", metavar="N")
    ] = None,
    verify_reads: Annotated[
        bool | None, typer.Option(help="Compare the checksum of every image that is read; default: yes.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help="Keep decoded images: auto, host or off.", metavar="WHERE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run --name, or the newest.")] = False,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Ranks on this machine: torchrun is started.", metavar="N")
    ] = None,
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
    if nproc and not print_config and "RANK" not in os.environ:
        from fasticcl.launch import start_ranks

        start_ranks(nproc, sys.argv[1:])
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
        "save_every": save_every,
        "verify_reads": verify_reads,
        "cache": cache,
        "fast_dev_run": fast_dev_run or None,
        "config": config,
        "set": assign or (),
    }
    from fasticcl.data.memory import keep_freed_memory

    if print_config:
        typer.echo(fasticcl.configure(dataset, **chosen).to_toml(), nl=False)
        return
    keep_freed_memory()  # the process is ours
    rank = int(os.environ.get("RANK", "0"))
    console = Console(quiet=rank > 0)
    report = fasticcl.train(dataset, resume=resume, console=console, **chosen)
    console.print(tables.accuracies(report))
    other = "train demo --method ce" if report.run.parent.name == "demo" else "presets"
    run, written = (shlex.quote(str(path)) for path in (report.run, report.run / "config.toml"))
    lines = [
        f"Next: fasticcl eval {run}    the same numbers again, from the saved weights",
        f"      fasticcl train -c {written} --name again    the same run again",
        f"      fasticcl {other}    something to compare with",
    ]
    tables.print_lines(console, lines)


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
        Console().print(tables.accuracies(report))


@app.command()
def convert(
    layout: Annotated[
        str, typer.Argument(help="inat2018, imagenet-lt, cifar100-lt, cifar10-lt, folder or list.")
    ],
    source: Annotated[
        Path, typer.Argument(help="The original dataset; of list its FILE.csv.", metavar="SRC")
    ],
    dest: Annotated[Path, typer.Argument(help="Folder of the shards.", metavar="DEST")],
    lists: Annotated[
        Path | None, typer.Option(help="imagenet-lt: folder of ImageNet_LT_train.txt …", metavar="DIR")
    ] = None,
    imbalance: Annotated[
        int | None, typer.Option(help="CIFAR-LT: 100 (default), 50 or 10.", metavar="RATIO")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="CIFAR: get it first.")] = False,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="folder, list: share of every class put aside as val.", min=0.001, max=0.999),
    ] = None,
    long_tail: Annotated[
        float | None, typer.Option(help="folder, list: cut to this imbalance ratio.", min=1, metavar="RATIO")
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(min=1, help="Make images smaller to this short side, as JPEG.")
    ] = None,
    max_side: Annotated[int | None, typer.Option(min=1, help="The same by their long side.")] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="JPEG quality of these; default: 90.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 2000,
    workers: Workers = None,
    max_corrupt: Annotated[int, typer.Option(min=0, help="Unreadable images that are accepted.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many images a split, spread over it.")
    ] = None,
) -> None:
    """Convert a dataset into shards; the same command continues a conversion that was stopped.

    Under torchrun the processes divide the shards.
    """
    console = Console()
    rank, world_size = (int(os.environ.get(name, default)) for name, default in _RANK)
    quiet = Console(quiet=True) if rank else console
    try:
        with Meter(quiet, "converting") as meter:
            manifest = fasticcl.convert(
                layout,
                source,
                dest,
                lists=lists,
                imbalance=imbalance,
                download=download,
                val_fraction=val_fraction,
                long_tail=long_tail,
                short_side=short_side,
                max_side=max_side,
                quality=quality,
                shard_size=shard_size,
                workers=workers,
                max_corrupt=max_corrupt,
                limit=limit,
                rank=rank,
                world_size=world_size,
                report=meter,
                note=lambda line: tables.print_lines(quiet, [line]),
            )
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, shlex.join(["fasticcl", *sys.argv[1:]])) from None
    if manifest:
        tables.print_lines(console, tables.converted(manifest, dest))
        follow = f"Next: fasticcl train {manifest.dataset} --data {shlex.quote(str(dest))}"
        ratio = manifest.settings.get("imbalance")
        tables.print_lines(console, [f"{follow} --imbalance {ratio}" if ratio else follow])


@app.command()
def verify(
    dest: Annotated[Path, typer.Argument(help="Folder of the shards.", metavar="DEST")],
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image too.")] = False,
    workers: Workers = None,
) -> None:
    """Check shards against checksums, indexes and manifest; exit code 1 if anything is wrong."""
    console = Console()
    with Meter(console, "verifying") as meter:
        found = fasticcl.verify(dest, decode=decode, workers=workers, report=meter)
    tables.print_lines(console, tables.some("same image in two splits: ", found.duplicates))
    if found.problems:
        tables.print_lines(Console(stderr=True), tables.some("", found.problems))
        _leave(1, f"error: {len(found.problems)} problems in {dest}; convert the dataset again.")
    tables.print_lines(
        console, [f"{found.images:,} images in {found.shards} shards are as they were converted."]
    )


@app.command()
def show(
    dest: Annotated[Path, typer.Argument(help="Folder of the shards.", metavar="DEST")],
    samples: Annotated[
        Path | None, typer.Option(help="Draw what the network sees into this PNG.", metavar="FILE")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the plan, for --samples.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, for --samples; repeatable.", metavar="SECTION.KEY=VALUE"),
    ] = None,
) -> None:
    """Say what shards hold: splits, classes, imbalance, sizes, a histogram."""
    summary = fasticcl.show(dest, samples=samples, seed=seed, set=assign or ())
    tables.print_lines(Console(), tables.shards(summary))


@app.command()
def datasets() -> None:
    """List the datasets that convert knows, where to get them and what to type next."""
    tables.print_lines(Console(), tables.layouts())


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


def main() -> NoReturn:
    """Run the command line: 0 done, 1 failed, 2 bad input, 130 or 143 stopped by a signal."""
    # What is wrong with an image is said in quarantine.jsonl, where it belongs.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        app()
    except UserError as error:
        _leave(2, f"error: {error}")
    except TrainingFailed as error:
        _leave(1, f"error: {error}")
    except Stopped as stopped:
        # SIGUSR1 is how SLURM says that SIGTERM will come.
        code = 128 + (signal.SIGINT if stopped.signum == signal.SIGINT else signal.SIGTERM)
        if os.environ.get("RANK", "0") != "0":
            sys.exit(code)  # rank 0 says it for all
        _leave(code, f"\n{stopped}; the state is saved. Continue with:\n  {stopped.command}")
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT, "interrupted")
    sys.exit(0)


def _leave(code: int, message: str) -> NoReturn:
    if rank := int(os.environ.get("RANK", "0")):
        # What all ranks have to say is said once: torchrun ends the others when the first has ended.
        time.sleep(10)
        message = f"rank {rank}: {message}"
    typer.echo(message, err=True)
    sys.exit(code)
