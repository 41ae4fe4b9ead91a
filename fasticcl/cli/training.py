"""The verbs that train and evaluate: parse, call one function, print."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import fasticcl
from fasticcl.cli import completion, tables
from fasticcl.cli.broken_pipe import lasting_console
from fasticcl.cli.examples import examples
from fasticcl.cli.options import Assign, Device, Quiet, Workers
from fasticcl.console import print_lines
from fasticcl.system import rank_environment

app = typer.Typer()


@app.command(
    epilog=examples(
        "fasticcl train demo",
        "fasticcl train inat2018 --epochs 200 --data data/inat2018",
        "fasticcl train folder --data data/folder --set method.encoder=resnet18 --fast-dev-run",
        "fasticcl train inat2018 --name long --resume",
    )
)
def train(
    dataset: Annotated[
        str | None,
        typer.Argument(help="A dataset preset: see `fasticcl presets`.", autocompletion=completion.datasets),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the shards.", metavar="DIR")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="iccl, ce, mixup or crt.", metavar="NAME", autocompletion=completion.methods),
    ] = None,
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
    logger: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard or wandb, repeatable; default: no.", metavar="NAME"),
    ] = None,
    report: Annotated[
        bool | None, typer.Option(help="Write report.html when the run has ended; default: yes.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help="Keep decoded images: auto, host, device or off.", metavar="WHERE")
    ] = None,
    quiet: Quiet = False,
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
    assign: Assign = None,
) -> None:
    """Train both stages on a dataset."""
    rank = rank_environment.rank()
    console = Console() if print_config else lasting_console(quiet=quiet or rank > 0)
    if nproc and not print_config and not rank_environment.is_launched_rank():
        from fasticcl.system.launch import launch_ranks

        launch_ranks(nproc, sys.argv[1:])
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
        "logger": logger or None,
        "report": report,
        "cache": cache,
        "fast_dev_run": fast_dev_run or None,
        "config": config,
        "set": assign or (),
    }
    from fasticcl.system.allocator import keep_freed_memory

    if print_config:
        typer.echo(fasticcl.configure(dataset, **chosen).to_toml(), nl=False)
        return
    keep_freed_memory()  # the process is ours
    found = fasticcl.train(dataset, resume=resume, console=console, **chosen)
    console.print(tables.accuracies(found))
    print_lines(console, tables.after_training(found))


@app.command(
    "eval", epilog=examples("fasticcl eval runs/demo/iccl-1", "fasticcl eval runs/demo/iccl-1 --json")
)
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


@app.command(
    epilog=examples("fasticcl rebalance runs/demo/iccl-1 --set rebalance.gamma=0.5 --name half-reverse")
)
def rebalance(
    run: Annotated[Path, typer.Argument(help="Folder of a run whose representation stage is finished.")],
    assign: Assign = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new run; default: RUN-rebalance-N beside it.")
    ] = None,
    device: Device = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Run the rebalancing stage of a run again.

    With other settings, into a run of its own; the old one is left as it is.
    """
    console = lasting_console(quiet=quiet or rank_environment.rank() > 0)
    found = fasticcl.rebalance(
        run, set=assign or (), name=name, device=device, workers=workers, console=console
    )
    console.print(tables.accuracies(found))
    new, old = (shlex.quote(str(path)) for path in (found.run, run))
    print_lines(console, [f"Next: fasticcl report {old} {new}    both beside one another"])


@app.command(
    epilog=examples(
        "fasticcl sweep runs/demo/iccl-1 --over rebalance.distillation_temperature=1,2,5,10,20",
        "fasticcl sweep runs/demo/iccl-1 --over rebalance.gamma=0,1 --over rebalance.lr_factor=0.1,1",
    )
)
def sweep(
    run: Annotated[Path, typer.Argument(help="Folder of a run whose representation stage is finished.")],
    over: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting and its values, repeatable: all combinations.", metavar="rebalance.KEY=V,V..."
        ),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            help="Training images to choose on: a share of each class, or a number; default: 0.1.",
            metavar="SHARE",
        ),
    ] = None,
    assign: Assign = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = None,
    workers: Workers = None,
) -> None:
    """Try settings of the rebalancing stage.

    All go on from the one representation stage of RUN. The best is chosen on held-back training images,
    never on the split that is reported.
    """
    console = lasting_console(stderr=json_output)
    found = fasticcl.sweep(
        run,
        over=over or (),
        holdout=holdout,
        set=assign or (),
        device=device,
        workers=workers,
        console=console,
    )
    if json_output:
        typer.echo(json.dumps(found.as_dict()))
        return
    console.print(tables.swept(found))
    print_lines(console, tables.chosen(found))
