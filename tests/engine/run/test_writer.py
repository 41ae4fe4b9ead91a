"""The files of a run in training: copies of the state, and missing or damaged checkpoints."""

import copy
import errno
import json
import threading

import pytest
import torch

from fasticcl.engine.run import checkpoint, writer
from fasticcl.engine.run.checkpoint import load_checkpoint
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.lock import is_locked
from fasticcl.engine.run.writer import RunWriter
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.representation import Representation
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from fasticcl.system.jpeg_engine import JpegEngines
from fasticcl.system.machine import Machine, choose_machine
from fasticcl.system.ranks import Ranks
from tests.support.small_runs import SHORTEST, equal, metrics, resume, same_weights

WAIT = 30  # seconds, for events that come at once unless the test fails
RECORD = {"stage": "representation", "epoch": 1, "step": 3, "val/top1": 50.0}


@pytest.fixture
def config(tmp_path):
    words = ["method.encoder=resnet8", "engine.device=cpu", f"engine.project={str(tmp_path)!r}"]
    return resolve("demo", assignments=[*words, 'engine.name="run"', 'rebalance.encoder="tuned"'])


@pytest.fixture
def representation(config):
    """A stage after a step, so its optimizer has momentum."""
    return after_a_step(Representation(config, 3, choose_machine(config.engine)))


def after_a_step(stage):
    generator = torch.Generator().manual_seed(0)
    for parameter in stage.network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    stage.optimizer.step()
    return stage


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


class HeldDisk:
    """A disk that finishes no checkpoint file before `release`."""

    def __init__(self, monkeypatch):
        self.events, self._released, save = [], threading.Event(), checkpoint.save_checkpoint

        def held(path, *arguments):
            self.events.append(f"begin {path.name}")
            assert self._released.wait(WAIT)
            save(path, *arguments)
            self.events.append(f"end {path.name}")

        monkeypatch.setattr(checkpoint, "save_checkpoint", held)

    def release(self):
        self._released.set()


@pytest.mark.parametrize("kind", ["representation", "rebalancing"])
def test_files_have_the_state_at_the_save(config, representation, monkeypatch, kind):
    stage = representation
    if kind == "rebalancing":
        stage = after_a_step(Rebalancing(config, representation.network, representation.machine))
    sums, rows, disk = {"loss": torch.ones(1)}, [3], HeldDisk(monkeypatch)
    run = RunWriter(RunFolder.create(config))
    run.metrics.finish_epoch(copy.deepcopy(RECORD))
    state, record = copy.deepcopy(stage.state_dict()), copy.deepcopy(RECORD)
    assert state["optimizer"]["state"]
    with run.in_background():
        run.save_best(stage.network, record)
        run.save(stage, 1, 2, {"sums": sums, "steps": 2}, rows)
        for tensor in (*tensors(stage.state_dict()), *tensors(sums)):
            tensor.fill_(7)
        stage.optimizer.param_groups[0]["lr"] = 7
        for each in (record, run.metrics.epochs[0]):
            each["val/top1"] = 7
        rows.append(7)
        run.metrics.epochs.append(record)
        disk.release()
    last, best = (load_checkpoint(run.folder.path / name) for name in ("last.pt", "best.pt"))
    assert all(equal(last[key], state[key]) for key in state)
    assert equal(last["partial"], {"sums": {"loss": torch.ones(1)}, "steps": 2})
    assert (last["bad_rows"], last["epochs"]) == ([3], [RECORD])
    assert equal(best["network"], state["network"])
    assert best["record"] == RECORD


def test_next_save_waits_for_the_previous_one(config, representation, monkeypatch):
    disk = HeldDisk(monkeypatch)
    state_dict = representation.state_dict
    run = RunWriter(RunFolder.create(config))
    with run.in_background():
        run.save(representation, 0, 1, {})
        representation.state_dict = lambda: disk.events.append("copy") or state_dict()
        threading.Timer(0.05, disk.release).start()
        run.save(representation, 0, 2, {})
    last = ["begin last.pt", "end last.pt"]
    assert disk.events == [*last, "copy", *last]
    assert load_checkpoint(run.folder.path / "previous.pt")["step"] == 1


def test_failed_save_is_reported_by_the_training_thread(config, representation, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    warnings = []
    warn = lambda text: warnings.append((text, threading.get_ident()))  # noqa: E731
    run = RunWriter(RunFolder.create(config), warn=warn)
    with run.in_background():
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "save_checkpoint", full)
            for step in (1, 2):
                run.save(representation, 0, step, {})
                assert not run.wait_until_saved()
        run.save(representation, 0, 3, {})
        assert run.wait_until_saved()
    ((text, thread),) = warnings
    assert "last.pt: No space left on device. Free some space" in text
    assert thread == threading.get_ident()


def test_other_ranks_neither_copy_nor_write(config):
    ranks = Ranks()
    ranks.rank = 1
    run = RunWriter(RunFolder.create(config), ranks=ranks)
    with run.in_background():
        run.save_best(None, {})  # there is nothing to copy
        run.save(None, 0, 1, {})
        assert run.wait_until_saved()
        assert "fasticcl-writer" not in [each.name for each in threading.enumerate()]
    assert [path.name for path in run.folder.path.iterdir()] == ["config.toml"]


def test_lock_is_released_after_the_end_of_the_thread(config):
    """Ctrl-C may skip the end of `in_background`."""

    def write():
        started.set()
        try:
            while True:
                run.thread.check()
        finally:
            locked.append(is_locked(run.folder.path))

    def use():
        with run.locked():
            run.in_background().__enter__()
            run.thread.submit(write)
            started.wait(WAIT)
            raise KeyboardInterrupt

    run, started, locked = RunWriter(RunFolder.create(config)), threading.Event(), []
    with pytest.raises(KeyboardInterrupt):
        use()
    assert locked == [True]
    assert not is_locked(run.folder.path)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint"])
def test_damaged_checkpoint_is_named_in_the_error(train_few, tmp_path, damage):
    report = train_few(**SHORTEST)
    (report.run / "last.pt").write_bytes(damage)
    with pytest.raises(UserError, match=r"The checkpoint .*last\.pt cannot be read"):
        resume(tmp_path)


def test_run_without_a_checkpoint_resumes_from_the_beginning(train_few, tmp_path):
    undisturbed, stopped = train_few(name="undisturbed"), train_few()
    for name in ("last.pt", "model.safetensors"):
        (stopped.run / name).unlink()
    resume(tmp_path)
    assert metrics(stopped.run) == metrics(undisturbed.run)
    assert same_weights(stopped.run, undisturbed.run)


def test_finished_run_without_checkpoint_cannot_be_resumed(train_few, tmp_path):
    run = train_few(**SHORTEST).run
    (run / "last.pt").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UserError, match=r"is finished and its checkpoint last\.pt is missing"):
        resume(tmp_path)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("engines", "recorded"),
    [(JpegEngines(8, 1), 8), (JpegEngines(None, reason="status 6"), "unknown: status 6")],
)
def test_environment_on_a_gpu_has_the_jpeg_engines(tmp_path, monkeypatch, engines, recorded):
    monkeypatch.setattr(writer, "query_jpeg_engines", lambda: engines)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    for device in ("cuda:0", "cpu"):
        machine = Machine(torch.device(device), bfloat16=False, mode="off")
        writer.RunWriter(RunFolder(tmp_path, resolve("demo"))).record_environment(machine)
    on_gpu, on_cpu = map(json.loads, (tmp_path / "environment.jsonl").read_text().splitlines())
    assert on_gpu["jpeg_engines"] == recorded
    assert "jpeg_engines" not in on_cpu
