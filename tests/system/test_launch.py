"""Runs launched by torchrun and --nproc: signals, killed ranks, restarts and two machines."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import fasticcl
from fasticcl.cli.main import main
from fasticcl.engine.loop import Loop
from fasticcl.errors import TrainingFailed
from fasticcl.system.launch import launch_ranks
from tests.support.processes import Child, call_main, call_main_in, on_ranks, start_ranks, started_process
from tests.support.small_runs import TINY, differences, train_tiny

SLURM = Path(__file__).parents[2] / "tools/slurm.sbatch"
EPOCHS = 12
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(fasticcl.__file__).parents[1]),
    "GLOO_SOCKET_IFNAME": "lo",
}


def cli_arguments(shards, project, *more):
    """Return the command line of `train_tiny` with more epochs."""
    settings = {**TINY, "method.encoder": "resnet8", "method.warmup_epochs": 1, "rebalance.epochs": 1}
    assigned = [word for key, value in settings.items() for word in ("--set", f"{key}={value!r}")]
    options = ["--data", shards, "--project", project, "--name", "run", "--device", "cpu"]
    sizes = ["--epochs", EPOCHS, "--batch-size", 20]
    return [str(word) for word in ["train", "demo", *options, *sizes, *assigned, *more]]


@pytest.fixture(scope="module")
def uninterrupted(tiny_shards, tmp_path_factory):
    """An uninterrupted run on two ranks."""
    project = tmp_path_factory.mktemp("uninterrupted")
    on_ranks(project / "log", 2, train_tiny, tiny_shards, project, epochs=EPOCHS)
    return project / "demo/run"


def processes_using(shards):
    """Return the ids of other processes that have these shards mapped."""
    process_ids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name != str(os.getpid()) and f"{shards}/" in (process / "maps").read_text():
                process_ids.append(process.name)
        except OSError:  # the process has exited or belongs to another user
            continue
    return process_ids


def launch_forked_ranks(count, arguments, entry=call_main, *first):
    """Call `launch_ranks`, but fork the ranks, which saves the imports."""

    def forked(config, program):
        def start(*words):
            assert (program, *words[:2]) == (sys.executable, "-m", "fasticcl")
            config.start_method = "fork"
            return elastic_launch(config, entry)(*first, *words[2:])

        return start

    api.elastic_launch = forked
    launch_ranks(count, arguments)


def signal_the_launcher(signum, *words):
    """Call the command line. After 8 steps, rank 0 signals the launcher and waits for its arrival."""
    take_step, steps = Loop.take_step, 0

    def counted(self, *rest):
        nonlocal steps
        take_step(self, *rest)
        steps += 1
        if steps == 8 and self.ranks.rank == 0:
            arrived, writer = os.pipe()
            os.set_blocking(writer, False)
            signal.set_wakeup_fd(writer)
            os.kill(os.getppid(), signum)
            os.read(arrived, 1)

    Loop.take_step = counted
    call_main(*words)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_signal_stops_nproc_and_the_printed_command_gives_the_same_bits(
    tiny_shards, uninterrupted, tmp_path, signum
):
    """torchrun does not forward SIGUSR1 by default."""
    child = Child(
        tmp_path / "log",
        launch_forked_ranks,
        2,
        cli_arguments(tiny_shards, tmp_path),
        signal_the_launcher,
        signum,
        env={"GLOO_SOCKET_IFNAME": "lo"},
    )
    assert child.exit_code() == 143
    printed = child.printed()
    assert "Traceback" not in printed
    start = printed.index(f"stopped by {signum.name}. The state is saved. Continue with:\n")
    resume_command = printed[start:].splitlines()[1]
    assert resume_command == f"  fasticcl train demo --project {tmp_path} --name run --nproc 2 --resume"
    assert printed.count("Continue with") == 1
    assert not (tmp_path / "demo/run/model.safetensors").exists()
    assert processes_using(tiny_shards) == []
    if signum == signal.SIGTERM:  # both signals save the same checkpoint
        return
    _, *arguments = shlex.split(resume_command)
    on_ranks(tmp_path / "log", 2, call_main, *arguments)
    assert differences(tmp_path / "demo/run", uninterrupted) == []


def train_and_kill_rank_1(arguments, marker, at):
    """Call the command line and kill the second rank once, after ``at`` steps."""
    take_step, steps = Loop.take_step, 0
    if marker.exists() and os.environ["RANK"] == "0":
        time.sleep(1)  # let the other ranks join first, because they must not use stale entries of the store

    def counted(self, *rest):
        nonlocal steps
        take_step(self, *rest)
        steps += 1
        if steps == at and self.ranks.rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    Loop.take_step = counted
    call_main(*arguments)


def run_agent(arguments, marker, at, restarts, endpoint=None):
    """Launch ranks as torchrun does, but fork them, which saves the imports."""
    machines = {"min_nodes": 2, "max_nodes": 2, "nproc_per_node": 1, "rdzv_endpoint": endpoint}
    machine = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "rdzv_endpoint": "127.0.0.1:0"}
    config = LaunchConfig(
        **(machines if endpoint else machine),
        rdzv_backend="c10d",
        run_id="run",
        max_restarts=restarts,
        monitor_interval=0.1,
        start_method="fork",
        local_addr="127.0.0.1",
    )
    elastic_launch(config, train_and_kill_rank_1)(arguments, marker, at)


def start_agent(tmp_path, shards, name="log", restarts=0, at=11, endpoint=None):
    arguments = cli_arguments(shards, tmp_path)
    env = {"GLOO_SOCKET_IFNAME": "lo"}
    return Child(tmp_path / name, run_agent, arguments, tmp_path / "marker", at, restarts, endpoint, env=env)


def test_killed_rank_stops_the_others_and_is_reported_with_its_signal(tiny_shards, tmp_path):
    agent = start_agent(tmp_path, tiny_shards)
    assert agent.raw()[0] is False
    assert "local_rank: 1" in agent.printed()
    assert "(exitcode: -9)" in agent.printed()
    assert processes_using(tiny_shards) == []
    assert (tmp_path / "demo/run/last.pt").exists()


def test_rank_that_loses_another_rank_reports_it_in_one_sentence(tiny_shards, tmp_path):
    """The ranks have no agent, like ranks on different machines whose agents have not noticed yet."""
    arguments, marker = cli_arguments(tiny_shards, tmp_path), tmp_path / "marker"
    survivor, killed = start_ranks(tmp_path / "log", 2, train_and_kill_rank_1, arguments, marker, 11)
    assert killed.exit_code() == -9
    assert survivor.exit_code() == 1
    assert "error: Another rank has exited" in survivor.printed()
    assert "Traceback" not in survivor.printed()


def test_restarted_run_continues_from_the_last_checkpoint(tiny_shards, uninterrupted, tmp_path):
    agent = start_agent(tmp_path, tiny_shards, restarts=1)
    agent.result()
    assert (tmp_path / "marker").exists()
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["run"]
    assert differences(tmp_path / "demo/run", uninterrupted) == []


def test_two_machines_restart_together_after_a_killed_rank(tiny_shards, uninterrupted, tmp_path):
    """Two agents simulate two nodes with a shared file system. One rank is killed once."""
    endpoint = f"127.0.0.1:{free_port()}"
    agents = [start_agent(tmp_path, tiny_shards, f"log{i}", restarts=1, endpoint=endpoint) for i in range(2)]
    for agent in agents:
        agent.result()
    printed = "".join(agent.printed() for agent in agents)
    assert printed.count("2 ranks of CPU") == 2
    assert printed.count("Next: fasticcl predict") == 1
    assert differences(tmp_path / "demo/run", uninterrupted) == []


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


SLURM_STUBS = {
    # Every node of the job is this machine.
    "scontrol": """case "$1" in show) echo 127.0.0.1 ;; *) echo "$*" >>scontrol.log ;; esac""",
    # One task per node. SIGTERM is forwarded to the tasks.
    "srun": """for _ in $(seq "$SLURM_NNODES"); do "$@" & tasks="${tasks:-} $!"; done
trap 'kill -TERM $tasks' TERM
code=0; for task in $tasks; do wait "$task" || { code=$?; wait "$task"; }; done; exit "$code" """,
    "torchrun": f"""exec {sys.executable} -m torch.distributed.run --local-addr 127.0.0.1 "$@" """,
}


def write_stub(folder, name, body):
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def test_slurm_script_requeues_itself_and_gives_the_same_bits(tiny_shards, uninterrupted, tmp_path):
    """The unchanged script on two nodes. The first job reaches its time limit, and the second continues.

    The ranks of the second job are forked with the arguments of the script, which saves the imports.
    """
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, body in SLURM_STUBS.items():
        write_stub(stubs, name, body)
    port = free_port()
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_GPUS_ON_NODE": "1",
        "MASTER_PORT": str(port),
        "PATH": f"{stubs}:{os.environ['PATH']}",
    }
    _, dataset, *options = cli_arguments(tiny_shards, "runs")
    start = partial(
        started_process,
        [SLURM, dataset, "--name", "run", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with start(env=ENVIRONMENT | job | {"SLURM_RESTART_COUNT": "0"}) as process:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if "epoch  3/" in line:
                process.send_signal(signal.SIGUSR1)
    assert process.returncode != 0, "".join(printed)
    assert not (tmp_path / "runs/demo/run/model.safetensors").exists()
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    write_stub(stubs, "torchrun", 'echo "$*" >>torchrun.log')
    with start(env=ENVIRONMENT | job | {"SLURM_RESTART_COUNT": "1"}) as process:
        printed = process.stdout.read()
    assert process.returncode == 0, printed
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    launches = (tmp_path / "torchrun.log").read_text().splitlines()
    assert launches == 2 * [
        "--nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-backend c10d --rdzv-id 7-1 "
        f"--rdzv-endpoint 127.0.0.1:{port} -m fasticcl train demo --name run --resume"
    ]
    _, _, words = launches[0].partition(" -m fasticcl ")
    on_ranks(tmp_path / "log", 2, call_main_in, tmp_path, *words.split())
    assert differences(tmp_path / "runs/demo/run", uninterrupted) == []


def test_bad_input_with_nproc_gives_one_sentence_and_exit_code_2(tmp_path):
    arguments = ["train", "demo", "--nproc", "2", "--batch-size", "33"]
    options = ["--data", str(tmp_path / "shards"), "--project", str(tmp_path / "runs"), "--device", "cpu"]
    child = Child(tmp_path / "log", launch_forked_ranks, 2, [*arguments, *options])
    assert child.exit_code() == 2
    sentence = "error: A global batch of 33 cannot be divided among 2 ranks. Use --batch-size 32."
    first, *others = child.printed().splitlines()
    assert first == sentence
    assert all("torch/multiprocessing" in line for line in others)  # it ends the other rank
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def launched(monkeypatch):
    """Launches recorded by a stub of torchrun's launcher, and a list of errors for it to raise."""
    launches, errors = [], []

    def launch(config, entry):
        def start(*arguments):
            assert {"SIGTERM", "SIGINT", "SIGUSR1"} <= set(config.signals_to_handle.split(","))
            launches.append((config.nproc_per_node, entry, *arguments))
            if errors:
                raise errors.pop()

        return start

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launch)
    for name in ("OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    return launches, errors


@pytest.mark.parametrize("option", [["--nproc", "2"], ["--nproc=2"]])
def test_nproc_starts_the_command_without_nproc_on_every_rank(launched, option):
    with pytest.raises(SystemExit) as left:
        launch_ranks(2, ["train", "demo", *option, "--lr", "0.1"])
    assert left.value.code == 0
    assert launched[0] == [(2, sys.executable, "-m", "fasticcl", "train", "demo", "--lr", "0.1")]


def test_rank_killed_by_a_signal_gives_one_clear_error(launched):
    failures = {0: failure(0, -15, later=1), 1: failure(1, -9, later=0)}
    launched[1].append(ChildFailedError("fasticcl", failures))
    with pytest.raises(TrainingFailed, match=r"Rank 1 was killed by SIGKILL.*--nproc 2 --resume"):
        launch_ranks(2, ["train", "demo"])


def failure(rank, exit_code, later):
    process_failure = ProcessFailure(local_rank=rank, pid=1, exitcode=exit_code, error_file="")
    process_failure.timestamp = 1000 + later
    return process_failure


@pytest.mark.parametrize("option", [["--nproc", "2"], ["--nproc=2"]])
def test_nproc_does_not_start_ranks_from_a_rank(monkeypatch, option, tmp_path, capsys):
    """torchrun passes all arguments to the ranks, and a rank must ignore --nproc."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(
        "fasticcl.system.launch.launch_ranks", lambda *_: pytest.fail("a rank started more ranks")
    )
    monkeypatch.setattr(sys, "argv", ["fasticcl", "train", "demo", *option, "--print-config"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert "[engine]" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
