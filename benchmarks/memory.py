"""Resident memory of a training run, loader and engine together, after 200 and after 2,000 steps.

    python benchmarks/memory.py [--first 200] [--last 2000] [--json FILE] [-- OPTIONS OF TRAIN]

The demonstration is trained by `fasticcl train` itself, in another process, whose VmRSS is read from the
kernel when metrics.jsonl says how far it is. Evaluations, checkpoints and both phases are part of it.
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
    """Measure, print, and write the result if asked to."""
    parser = argparse.ArgumentParser(description="Resident memory early and late in a run.")
    parser.add_argument("--first", type=int, default=200, help="steps (default %(default)s)")
    parser.add_argument("--last", type=int, default=2000, help="steps (default %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("options", nargs="*", help="further options of fasticcl train demo")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = resident(Path(folder), given)
    early, late = found[given.first], found[given.last]
    result = {
        "benchmark": "memory",
        "options": given.options,
        "resident_mib": found,
        "late_over_early": round(late / early, 4),
        "machine": hardware(),
    }
    print(json.dumps(result, indent=1))
    write_result(result, given.json)


def resident(folder: Path, given: argparse.Namespace) -> dict[int, float]:
    """Return the resident memory in MiB after each of the two numbers of steps."""
    command = [sys.executable, "-m", "fasticcl", "train", "demo", "--project", str(folder / "runs")]
    command += ["--data", str(folder / "shards"), "--name", "run", "--epochs", "100000"]
    command += ["--set", "engine.log_every=1", *given.options]
    found: dict[int, float] = {}
    log = folder / "runs/demo/run/metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while given.last not in found and process.poll() is None:
            time.sleep(0.02)
            # An epoch has one line more than steps, that of its end.
            steps = sum('"val/top1"' not in line for line in log.open()) if log.exists() else 0
            for wanted in (given.first, given.last):
                if steps >= wanted and wanted not in found:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    found[wanted] = round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)
        process.kill()
    if given.last not in found:
        sys.exit("The run ended before that many steps.")
    return found


if __name__ == "__main__":
    main()
