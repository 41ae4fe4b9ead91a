"""Resident memory of a training run, loader and engine together, after 200 and after 2,000 steps.

    python benchmarks/memory.py [--first 200] [--last 2000] [--json FILE] [-- OPTIONS OF TRAIN]

`fasticcl train demo` runs in a child process. Its VmRSS is read when metrics.jsonl reaches each number of
steps. The run includes evaluations, checkpoints and both phases.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _runs import hardware, write_result


def main() -> None:
    """Measure, print the result, and write it to the file of --json."""
    parser = argparse.ArgumentParser(description="Resident memory early and late in a run.")
    parser.add_argument("--first", type=int, default=200, help="steps (default %(default)s)")
    parser.add_argument("--last", type=int, default=2000, help="steps (default %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("options", nargs="*", help="options of fasticcl train demo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        resident_mib = resident(Path(folder), options)
    early, late = resident_mib[options.first], resident_mib[options.last]
    result = {
        "benchmark": "memory",
        "options": options.options,
        "resident_mib": resident_mib,
        "late_over_early": round(late / early, 4),
        "machine": hardware(),
    }
    print(json.dumps(result, indent=1))
    write_result(result, options.json)


def resident(folder: Path, options: argparse.Namespace) -> dict[int, float]:
    """Return the resident memory in MiB after each of the two numbers of steps."""
    command = [sys.executable, "-m", "fasticcl", "train", "demo", "--project", str(folder / "runs")]
    command += ["--data", str(folder / "shards"), "--name", "run", "--epochs", "100000"]
    command += ["--set", "engine.log_every=1", *options.options]
    resident_mib: dict[int, float] = {}
    log = folder / "runs/demo/run/metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while options.last not in resident_mib and process.poll() is None:
            time.sleep(0.02)
            # Every epoch ends with an additional line that contains the evaluation.
            steps = sum('"val/top1"' not in line for line in log.open()) if log.exists() else 0
            for target in (options.first, options.last):
                if steps >= target and target not in resident_mib:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    resident_mib[target] = round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)
        process.kill()
    if options.last not in resident_mib:
        sys.exit("The run ended before --last steps. Choose a smaller number.")
    return resident_mib


if __name__ == "__main__":
    main()
