"""Accuracy of training methods over several seeds, on the demonstration data by default.

    python benchmarks/demo.py [--methods ce iccl ...] [--seeds 0 1 2] [--project DIR] [--json FILE]
                              [--dataset NAME] [--second-stage SECTION.KEY=VALUE ...] [TRAINING OPTIONS]

Every run is `fasticcl train DATASET --method METHOD --seed SEED`, with all other options of `fasticcl train`
passed on. Methods that differ from another only in the second stage continue its run with
`fasticcl rebalance RUN --method METHOD`, which gives the same result. The result is the mean accuracy of the
last epoch and its sample standard deviation over the seeds. With --project, finished runs are kept, and the
same command continues an interrupted one.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _runs import hardware, write_result
from rich.console import Console
from rich.table import Table

import fasticcl
from fasticcl.engine.evaluate import METRICS
from fasticcl.engine.progress import percent
from fasticcl.resolve import first_stage_differences

FIRST_STAGES = {
    "crt": "ce",
    "lws": "ce",
    "tau-norm": "ce",
    "ncm": "ce",
    "logit-adjustment-post-hoc": "ce",
    "mislas": "mixup",
    "oltr": "ce",
}
"""Methods that continue the first stage of another one, if its settings are the same on the dataset."""
METHODS = (
    "ce",
    "focal",
    "focal-sigmoid",
    "cb-focal",
    "ce-drw",
    "ce-drs",
    "ldam-drw",
    "tde",
    "balanced-softmax",
    "logit-adjustment",
    "mixup",
    "manifold-mixup",
    "manifold-mixup-two-samplers",
    "cmo",
    "bbn",
    "m2m",
    *FIRST_STAGES,
    "iccl",
)


def main() -> None:
    options, training = parse()
    with tempfile.TemporaryDirectory() as temporary:
        project = options.project or Path(temporary)
        runs = [
            run(options, training, method, seed, project)
            for seed in options.seeds
            for method in sorted(options.methods, key=METHODS.index)
        ]
    summary = summarise(runs)
    show(summary)
    write_result(
        {
            "machine": hardware(),
            "dataset": options.dataset,
            "options": training,
            "second_stage": options.second_stage,
            "seeds": options.seeds,
            "summary": summary,
            "runs": runs,
        },
        options.json,
    )


def parse() -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the options of the script and those that are passed on to `fasticcl.train`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--project", type=Path, help="folder in which the runs are kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--second-stage",
        action="append",
        default=[],
        metavar="rebalance.KEY=VALUE",
        help="a setting for methods with a second stage",
    )
    training = parser.add_argument_group("training options, as for fasticcl train")
    training.add_argument("--data")
    training.add_argument("--epochs", type=int)
    training.add_argument("--eval-every", type=int)
    training.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    names = ("data", "epochs", "eval_every", "set")
    return options, {name: getattr(options, name) for name in names if getattr(options, name)}


def run(
    options: argparse.Namespace, training: dict[str, Any], method: str, seed: int, project: Path
) -> dict[str, Any]:
    """Train a method, or continue its run, and return its accuracies."""
    name, began = f"{method}-s{seed}", time.perf_counter()
    folder = project / options.dataset
    kept: dict[str, Any] = {"name": name, "project": project}
    if (folder / name / "config.toml").exists():
        report = fasticcl.train(options.dataset, **kept, resume=True)
    elif continues(options.dataset, method):
        first = folder / f"{FIRST_STAGES[method]}-s{seed}"
        if not first.exists():
            raise SystemExit(f"{method} continues {FIRST_STAGES[method]}. Add it to --methods.")
        report = fasticcl.rebalance(first, method=method, name=name, set=options.second_stage)
    else:
        kept |= training | {"method": method, "seed": seed, "report": False}
        if method == "iccl" or method in FIRST_STAGES:
            kept["set"] = [*training.get("set", []), *options.second_stage]
        report = fasticcl.train(options.dataset, **kept)
    seconds = time.perf_counter() - began
    print(f"{method} seed {seed}: {seconds:.0f} s")
    return {"method": method, "seed": seed, "seconds": round(seconds, 1), "rows": report.rows}


def continues(dataset: str, method: str) -> bool:
    """Return True if a method has the first stage of another one on this dataset."""
    first = FIRST_STAGES.get(method)
    return first is not None and not first_stage_differences(
        fasticcl.configure(dataset, method=first), method
    )


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return [mean, standard deviation] of each metric, by method and row."""
    values_of: dict[str, dict[str, list[float]]] = {}
    for result in runs:
        for row, metrics in result["rows"].items():
            if row == "best":
                continue
            table = values_of.setdefault(f"{result['method']} {row}", {name: [] for name in METRICS})
            for name in METRICS:
                table[name].append(metrics[name])
    return {
        row: {name: [statistics.mean(values), _deviation(values)] for name, values in table.items()}
        for row, table in values_of.items()
    }


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def show(summary: dict[str, dict[str, list[float]]]) -> None:
    table = Table("top-1, %", *(name.removeprefix("val/") for name in METRICS))
    for row, metrics in summary.items():
        table.add_row(
            row, *(f"{percent(metrics[name][0])} ± {percent(metrics[name][1])}" for name in METRICS)
        )
    Console().print(table)


if __name__ == "__main__":
    main()
