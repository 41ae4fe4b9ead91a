"""The SLURM script for a job array, with stand-ins for ``fasticcl`` and ``scontrol``."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import started_process

SCRIPT = Path(__file__).parents[2] / "tools/slurm-array.sbatch"
STAND_INS = {
    "scontrol": 'echo "$*" >> scontrol.log',
    # The first start runs until SIGTERM, and every later one is finished at once.
    "fasticcl": """echo "$*" >> fasticcl.log
trap 'echo saved; exit 143' TERM
[ "$(wc -l < fasticcl.log)" = 1 ] || exit "${CODE:-0}"
echo training
while true; do sleep 0.05; done""",
}
JOB = {
    "SLURM_JOB_ID": "40",
    "SLURM_ARRAY_JOB_ID": "40",
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


@pytest.fixture
def environment(tmp_path):
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return os.environ | JOB | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def test_task_that_reaches_its_time_limit_is_requeued_and_continues(tmp_path, environment):
    script = [SCRIPT, "table1", "--jobs", "3"]
    options = {"cwd": tmp_path, "env": environment, "text": True}
    with started_process(script, stdout=subprocess.PIPE, **options) as process:
        assert process.stdout.readline() == "training\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "saved\n"
    assert process.returncode != 0
    assert (tmp_path / "scontrol.log").read_text() == "requeue 40_2\n"  # the task, not the whole array
    assert subprocess.run(script, **options).returncode == 0
    assert (tmp_path / "scontrol.log").read_text() == "requeue 40_2\n"
    assert (tmp_path / "fasticcl.log").read_text() == "reproduce table1 --jobs 3 --part 2/4\n" * 2


def test_failed_task_is_not_requeued(tmp_path, environment):
    (tmp_path / "fasticcl.log").write_text("an earlier start\n")
    done = subprocess.run([SCRIPT, "table1"], cwd=tmp_path, env=environment | {"CODE": "1"})
    assert done.returncode == 1
    assert not (tmp_path / "scontrol.log").exists()


def test_script_outside_of_an_array_prints_its_usage(tmp_path, environment):
    del environment["SLURM_ARRAY_TASK_ID"]
    done = subprocess.run([SCRIPT, "table1"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch")
