"""Accuracy of training methods on the demonstration data, over several seeds.

    python benchmarks/demo.py [--methods ce mixup crt iccl] [--seeds 0 1 2] [--json FILE]

Every run is `fasticcl train demo --method METHOD --seed SEED` with the settings of the preset. The result is
the mean accuracy of the last epoch and its sample standard deviation over the seeds.
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


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as project:
        runs = [run(method, seed, project) for seed in options.seeds for method in options.methods]
    summary = summarise(runs)
    show(summary)
    write_result(
        {"machine": hardware(), "seeds": options.seeds, "summary": summary, "runs": runs}, options.json
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", default=["ce", "mixup", "crt", "iccl"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(method: str, seed: int, project: str) -> dict[str, Any]:
    began = time.perf_counter()
    report = fasticcl.train("demo", method=method, seed=seed, project=project, report=False)
    seconds = time.perf_counter() - began
    print(f"{method} seed {seed}: {seconds:.0f} s")
    return {"method": method, "seed": seed, "seconds": round(seconds, 1), "rows": report.rows}


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
