"""Training processes that are killed at random moments or stopped by signals."""

import json
import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fasticcl.engine.loop import Loop
from fasticcl.engine.run import metrics_log
from fasticcl.engine.run.checkpoint import load_checkpoint
from tests.support.processes import Child, call_main
from tests.support.small_runs import TINY, differences, resume, train_tiny, wait_for_writes

OPTIONS = ["--epochs", 3, "--batch-size", 20, "--device", "cpu"]
SETTINGS = {**TINY, "method.encoder": "resnet8", "method.warmup_epochs": 1, "rebalance.epochs": 1}


def words(shards, project, name="run"):
    """The command line of `train_tiny`."""
    assigned = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return ["train", "demo", "--data", shards, "--project", project, "--name", name, *OPTIONS, *assigned]


def resume_words(project, name="run"):
    return ["train", "demo", "--project", project, "--name", name, "--resume"]


def shared_memory():
    return set(Path("/dev/shm").iterdir())


def processes_that_use(folder):
    """Return the processes that have files of a folder open or mapped."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            maps = (process / "maps").read_text()
            links = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:  # it has ended, or belongs to another user
            continue
        if str(folder) in maps or any(link.startswith(str(folder)) for link in links):
            found.append(process.name)
    return found


@pytest.fixture
def own_shards(tiny_shards, tmp_path):
    """A copy of the shards that no other process has open."""
    return shutil.copytree(tiny_shards, tmp_path / "shards")


def test_runs_killed_at_random_moments_end_bit_identically(own_shards, undisturbed, tmp_path):
    rng = np.random.default_rng(0)
    before = shared_memory()
    Child(tmp_path / "log", abs, 1).result()  # starts the fork server
    began = time.monotonic()
    Child(tmp_path / "log", call_main, *words(own_shards, tmp_path, "whole")).exit_code()
    duration = time.monotonic() - began
    kills, finished = 0, []
    while True:
        folder = tmp_path / f"demo/run{len(finished)}"
        known = (folder / "config.toml").exists()
        command = resume_words(tmp_path, folder.name) if known else words(own_shards, tmp_path, folder.name)
        child = Child(tmp_path / "log", call_main, *command)
        child.process.join(rng.uniform(0, duration) if kills < 10 else None)
        if child.kill():
            kills += 1
            continue
        assert child.process.exitcode == 0, child.printed()
        finished.append(folder)
        if kills >= 10:
            break
    for folder in [tmp_path / "demo/whole", *finished]:
        assert differences(folder, undisturbed) == []
    assert not [path for path in tmp_path.rglob("*") if re.search(r"\.part$|lock", path.name)]
    assert processes_that_use(own_shards) == []
    assert {path for path in shared_memory() - before if processes_that_use(path) == []} == set()


def killed_while_writing(shards, project, number):
    """Kill the process at its n-th write operation, without cleanup."""
    count = 0

    def counted(call):
        def use(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return use

    with pytest.MonkeyPatch.context() as patched:
        for name in ("fsync", "replace"):
            patched.setattr(os, name, counted(getattr(os, name)))
        patched.setattr(torch, "save", counted(torch.save))
        patched.setattr(metrics_log, "append", counted(metrics_log.append))
        train_tiny(shards, project)
    return count


def test_run_killed_between_any_two_writes_ends_bit_identically(tiny_shards, undisturbed, tmp_path):
    """Covers every third write of the second epoch."""
    per_run = Child(tmp_path / "log", killed_while_writing, tiny_shards, tmp_path / "all", 10**6).result()
    first = per_run // 4 + 1
    for number in range(first, first + per_run // 4, 3):
        project = tmp_path / str(number)
        assert Child(tmp_path / "log", killed_while_writing, tiny_shards, project, number).exit_code() == -9
        resume(project)
        assert differences(project / "demo/run", undisturbed) == []


def run_with_signals(signals, after, arguments):
    """Run a command line that sends itself signals after a number of steps, whose files are written."""
    step, taken = Loop.take_step, 0

    def counted(self, *rest):
        nonlocal taken
        step(self, *rest)
        taken += 1
        if taken == after:
            wait_for_writes(self.run)
            for signum in signals:
                os.kill(os.getpid(), signum)
                time.sleep(0)  # let the interpreter handle it

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Loop, "take_step", counted)
        call_main(*arguments)


@pytest.mark.parametrize(
    ("signum", "code", "after"),
    [(signal.SIGINT, 130, 2), (signal.SIGINT, 130, 11), (signal.SIGTERM, 143, 11), (signal.SIGUSR1, 143, 2)],
)
def test_signal_saves_and_prints_the_resume_command(
    tiny_shards, undisturbed, tmp_path, run_cli, signum, code, after
):
    child = Child(tmp_path / "log", run_with_signals, [signum], after, words(tiny_shards, tmp_path))
    assert child.exit_code() == code
    *_, message, command = child.printed().splitlines()
    assert message == f"stopped by {signum.name}. The state is saved. Continue with:"
    saved = load_checkpoint(tmp_path / "demo/run/last.pt")
    assert (saved["stage"], saved["epoch"], saved["step"]) == {
        2: ("representation", 0, 2),
        11: ("rebalancing", 0, 2),
    }[after]
    assert "Traceback" not in child.printed()
    program, *rest = shlex.split(command)
    assert program == "fasticcl"
    assert run_cli(*rest)[0] == 0
    assert differences(tmp_path / "demo/run", undisturbed) == []


@pytest.mark.parametrize("after", [1, 3, 8])
def test_second_signal_exits_at_once_and_leaves_complete_files(tiny_shards, undisturbed, tmp_path, after):
    arguments = words(tiny_shards, tmp_path)
    child = Child(tmp_path / "log", run_with_signals, [signal.SIGINT, signal.SIGINT], after, arguments)
    assert child.exit_code() == 130
    assert "Traceback" not in child.printed()
    folder = tmp_path / "demo/run"
    assert not list(folder.glob("*.part"))
    if after > 2:
        load_checkpoint(folder / "last.pt")
    resume(tmp_path)
    assert differences(folder, undisturbed) == []


def interrupted_while_saving(arguments):
    """Run a command line with a Ctrl-C after a step and a second one during the checkpoint."""
    save = torch.save

    class Interrupting:
        def __init__(self, file):
            self.file, self.written = file, 0

        def write(self, content):
            self.written += len(content)
            if self.written > 10_000:
                os.kill(os.getpid(), signal.SIGINT)
                while True:  # the training thread handles the signal, and then a write raises an exception
                    self.file.write(b"")
                    time.sleep(0.001)
            return self.file.write(content)

        def __getattr__(self, name):
            return getattr(self.file, name)

    def interrupted(content, file):
        armed = content.get("step") == 2
        save(content, Interrupting(file) if armed else file)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "save", interrupted)
        run_with_signals([signal.SIGINT], 8, arguments)


def test_second_ctrl_c_during_a_save_keeps_the_old_checkpoint(tiny_shards, tmp_path):
    arguments = [*words(tiny_shards, tmp_path), "--set", "engine.save_every=15m"]
    child = Child(tmp_path / "log", interrupted_while_saving, arguments)
    assert child.exit_code() == 130
    assert "Traceback" not in child.printed()
    folder = tmp_path / "demo/run"
    assert not list(folder.glob("*.part"))
    saved = load_checkpoint(folder / "last.pt")
    assert (saved["epoch"], saved["step"]) == (2, 0)


def test_signal_before_the_first_step_prints_no_traceback(tiny_shards, tmp_path):
    child = Child(tmp_path / "log", call_main, *words(tiny_shards, tmp_path))
    while "run      " not in child.printed() and child.process.is_alive():
        time.sleep(0.001)
    child.signal(signal.SIGINT)
    assert child.exit_code() == 130
    assert "Traceback" not in child.printed()
