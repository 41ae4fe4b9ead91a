"""Runs with non-finite losses, full disks and file size limits."""

import errno
import os
import re
import resource
from functools import partial
from pathlib import Path

import pytest
import torch

from fasticcl.data.plan import Plan
from fasticcl.engine.run import checkpoint, metrics_log
from fasticcl.engine.run.checkpoint import load_checkpoint
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.representation import Representation
from fasticcl.errors import Stopped, TrainingFailed
from fasticcl.resolve import resolve
from fasticcl.shards.reader import Shards
from fasticcl.system.allocator import keep_freed_memory
from tests.support.processes import Child, on_ranks
from tests.support.small_runs import (
    TINY,
    TINY_COUNTS,
    TINY_STEPS,
    ConsoleOutput,
    PowerCut,
    differences,
    record_steps,
    resume,
    train_demo,
    train_tiny,
)


@pytest.fixture
def begin(tiny_shards, tmp_path):
    return partial(train_tiny, tiny_shards, tmp_path)


def multiply_loss(monkeypatch, number, value, rank=0):
    """Multiply the loss of a step, counted from 1, by a value on one rank."""
    count = 0
    for stage in (Representation, Rebalancing):

        def multiplied(self, batch, losses=stage.losses):
            nonlocal count
            found = losses(self, batch)
            count += 1
            if count == number and self.machine.ranks.rank == rank:
                found["loss"] = found["loss"] * value
            return found

        monkeypatch.setattr(stage, "losses", multiplied)


def planned_names(folder, phase, epoch, step):
    """Return the names of a step's images in the shards, of both streams."""
    config = resolve(file=folder / "config.toml")
    shards = Shards(config.data.dir, "train")
    plan = Plan(
        shards.index,
        shards.counts,
        config.data,
        batch_size=config.optim.batch_size,
        seed=config.engine.seed,
        rebalance_gamma=config.rebalance.gamma,
    )
    streams = plan.batch(phase, epoch, step).streams
    return [shards.name(row) for stream in streams for row in stream.rows]


BAD_STEPS = [
    # step from 1; phase; epoch and step from 0; lines of failed_step.txt; position of the last checkpoint
    (1, "warmup", 0, 0, 20, None),
    (5, "interpolative", 1, 1, 40, ("representation", 1, 0)),
    (9, "interpolative", 2, 2, 40, ("representation", 2, 2)),
    (10, "rebalance", 0, 0, 20, ("representation", 3, 0)),
]


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize(("number", "phase", "epoch", "step", "images", "place"), BAD_STEPS)
def test_non_finite_loss_is_reported_and_keeps_the_checkpoint(
    begin, tmp_path, monkeypatch, number, phase, epoch, step, images, place, log_every
):
    folder, settings = tmp_path / "demo/run", {"engine.log_every": log_every}
    stage = "rebalancing" if phase == "rebalance" else "representation"
    with monkeypatch.context() as patched:
        multiply_loss(patched, number, float("nan") if number % 2 else float("inf"))
        with pytest.raises(TrainingFailed) as failed:
            begin(settings)
    listed = (folder / "failed_step.txt").read_text().splitlines()
    assert listed == planned_names(folder, phase, epoch, step)
    assert len(listed) == images
    sentence = str(failed.value)
    place_named = f"not finite at step {step + 1} of {stage} epoch {epoch + 1}"
    assert f"{place_named}, on {listed[0]} and {images - 1} more images" in sentence
    assert str(folder / "failed_step.txt") in sentence
    if place is None:
        assert not (folder / "last.pt").exists()
    else:
        last = load_checkpoint(folder / "last.pt")
        assert (last["stage"], last["epoch"], last["step"]) == place
        assert all(torch.isfinite(value).all() for value in last["network"].values())
    assert sentence.endswith(f"fasticcl train demo --project {tmp_path} --name run --resume")


@pytest.mark.parametrize("number", [1, 5, 11])
def test_run_resumes_from_before_a_non_finite_loss(begin, undisturbed, tmp_path, monkeypatch, number):
    with monkeypatch.context() as patched:
        multiply_loss(patched, number, float("nan"))
        with pytest.raises(TrainingFailed):
            begin()
    resume(tmp_path)
    (tmp_path / "demo/run/failed_step.txt").unlink()
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_checkpoint_has_only_finite_weights(begin, tmp_path, monkeypatch):
    """A finite loss whose gradient overflows shows only in the next loss, after a checkpoint is due."""

    def overflow(count):
        if count == 2:
            network.classifier.weight.data[0, 0] = torch.nan

    network, init = None, Representation.__init__

    def noted(self, *arguments):
        nonlocal network
        init(self, *arguments)
        network = self.network

    with monkeypatch.context() as patched:
        patched.setattr(Representation, "__init__", noted)
        record_steps(patched, overflow)
        with pytest.raises(TrainingFailed):
            begin({"engine.save_every": "1"})
    last = load_checkpoint(tmp_path / "demo/run/last.pt")
    assert all(torch.isfinite(value).all() for value in last["network"].values())


def train_with_nan_on_rank(shards, project, rank):
    with pytest.MonkeyPatch.context() as patched:
        multiply_loss(patched, 5, float("nan"), rank)
        try:
            train_tiny(shards, project)
        except TrainingFailed as failed:
            return str(failed)
    return None


@pytest.mark.parametrize("rank", [0, 1])
def test_non_finite_loss_on_one_rank_stops_all(tiny_shards, tmp_path, rank):
    messages = on_ranks(tmp_path / "log", 2, train_with_nan_on_rank, tiny_shards, tmp_path, rank)
    assert all(
        "The loss was not finite at step 2 of representation epoch 2" in message for message in messages
    )
    folder = tmp_path / "demo/run"
    assert sorted((folder / "failed_step.txt").read_text().splitlines()) == sorted(
        planned_names(folder, "interpolative", 1, 1)
    )
    last = load_checkpoint(folder / "last.pt")
    assert (last["epoch"], last["step"]) == (1, 0)


class FullDisk:
    """Fails to flush files of some names while it is full. The kernel may report a full disk that late."""

    def __init__(self, monkeypatch, names, code=errno.ENOSPC, most=10**6):
        self.names, self.code, self.most, self.full, self.refused = names, code, most, False, 0
        fsync = os.fsync

        def flush(file):
            name = Path(os.readlink(f"/proc/self/fd/{file}")).name
            full = self.full and self.refused < self.most
            if full and re.sub(r"\.[0-9a-f]{8}\.part$", "", name) in self.names:
                self.refused += 1
                raise OSError(self.code, os.strerror(self.code))
            fsync(file)

        monkeypatch.setattr("os.fsync", flush)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("last.pt", range(2, 3)),
        ("last.pt", range(5, 9)),
        ("last.pt", range(9, 11)),
        ("results.csv", range(3, 4)),
        ("results.csv", range(6, 11)),
        ("best.pt", range(3, 4)),
    ],
    ids=str,
)
def test_full_disk_does_not_interrupt_or_change_the_run(
    begin, undisturbed, tmp_path, monkeypatch, name, steps
):
    disk = FullDisk(monkeypatch, [name])
    kept, saved = {}, tmp_path / "demo/run" / name

    def after(count):
        disk.full = count in steps
        if count == steps.start:
            kept["before"] = saved.read_bytes() if saved.exists() else None
        elif count == steps.start + 1:
            kept["during"] = saved.read_bytes() if saved.exists() else None

    record_steps(monkeypatch, after)
    output = ConsoleOutput()
    begin(console=output.console)
    assert disk.refused
    assert kept["before"] == kept["during"]
    assert output.warnings() == [
        f"warning  cannot write {saved}: No space left on device. Free some space. Training continues and "
        "retries"
    ]
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_disk_that_fills_again_is_reported_again(begin, monkeypatch):
    disk = FullDisk(monkeypatch, ["last.pt"])

    def after(count):
        disk.full = count in (3, 4, 8, 9)

    record_steps(monkeypatch, after)
    output = ConsoleOutput()
    begin(console=output.console)
    assert disk.refused > 2
    assert len(output.warnings()) == 2


def test_run_is_unfinished_if_its_last_checkpoint_failed(begin, undisturbed, tmp_path, monkeypatch):
    """The checkpoint has the weights from before rebalancing, which evaluation needs."""
    disk = FullDisk(monkeypatch, ["last.pt"], most=1)

    def after(count):
        disk.full = count == 12

    record_steps(monkeypatch, after)
    with pytest.raises(TrainingFailed, match=r"could not be written\. Free some space, then run"):
        begin()
    assert disk.refused
    assert not (tmp_path / "demo/run/model.safetensors").exists()
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", undisturbed) == []


@pytest.mark.parametrize("name", ["results.csv", "best.pt"])
def test_writes_deferred_in_the_last_epoch_are_done_at_the_end(
    begin, undisturbed, tmp_path, monkeypatch, name
):
    disk = FullDisk(monkeypatch, [name], most=1)

    def after(count):
        disk.full = count == 12

    record_steps(monkeypatch, after)
    begin()
    assert disk.refused
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_deferred_best_weights_are_those_of_the_best_epoch(begin, monkeypatch):
    undisturbed = begin({"rebalance.epochs": 0}, name="undisturbed")
    disk, last_step = FullDisk(monkeypatch, ["best.pt"], most=1), TINY_STEPS * undisturbed.best_epoch

    def after(count):
        disk.full = count == last_step

    record_steps(monkeypatch, after)
    report = begin({"rebalance.epochs": 0})
    assert disk.refused
    assert report.best_epoch == undisturbed.best_epoch
    assert differences(report.run, undisturbed.run) == []


def fail_appends(monkeypatch, steps, after=lambda _: None, most=10**6):
    """Make appends to metrics.jsonl fail after some steps."""
    append, refused, now = metrics_log.append, [], 0

    def counted(count):
        nonlocal now
        now = count
        after(count)

    def refusing(path, text):
        if now in steps and len(refused) < most:
            refused.append(now)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(path, text)

    monkeypatch.setattr(metrics_log, "append", refusing)
    record_steps(monkeypatch, counted)
    return refused


@pytest.mark.parametrize("steps", [range(1, 2), range(4, 8), range(9, 11)], ids=str)
def test_records_are_written_later_after_a_failure(begin, undisturbed, tmp_path, monkeypatch, steps):
    refused = fail_appends(monkeypatch, steps)
    output = ConsoleOutput()
    begin(console=output.console)
    assert refused
    assert len(output.warnings()) == 1
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_last_records_are_written_at_the_end_after_a_failure(begin, undisturbed, tmp_path, monkeypatch):
    refused = fail_appends(monkeypatch, [12], most=2)
    begin()
    assert len(refused) == 2  # the records of the last step and of its epoch
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_unwritten_records_survive_a_stop(begin, undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        fail_appends(patched, range(4, 6), lambda count: count == 5 and os.kill(os.getpid(), 15))
        with pytest.raises(Stopped):
            begin()
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_records_written_after_their_checkpoint_are_not_duplicated(begin, undisturbed, tmp_path, monkeypatch):
    """Records 4 and 5 are unwritten at a checkpoint and are written with record 6, before a power cut."""

    def cut(count):
        if count == 7:
            raise PowerCut

    with monkeypatch.context() as patched:
        fail_appends(patched, range(4, 6), cut)
        with pytest.raises(PowerCut):
            begin()
    with monkeypatch.context() as patched:
        patched.setattr(
            checkpoint, "load_checkpoint", lambda path: load_checkpoint(path.with_name("previous.pt"))
        )
        resume(tmp_path)
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_stop_on_a_full_disk_reports_that_nothing_was_saved(begin, undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        disk = FullDisk(patched, ["last.pt"])

        def after(count):
            if count == 5:
                disk.full = True
                os.kill(os.getpid(), 15)

        record_steps(patched, after)
        with pytest.raises(TrainingFailed, match=r"^Stopped, but the state could not be saved\. Free some"):
            begin()
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_failure_to_write_the_weights_can_be_resumed(begin, undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        disk = FullDisk(patched, ["model.safetensors"], errno.EROFS)
        disk.full = True
        output = ConsoleOutput()
        with pytest.raises(
            TrainingFailed, match=r"^The weights could not be written\. Free some space, then"
        ):
            begin(console=output.console)
    assert "Read-only file system" in output.warnings()[0]
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", undisturbed) == []


def limited(shards, project, first, last, size):
    """Train with limited file sizes from step ``first`` to step ``last``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = ConsoleOutput()

    def after(count):
        log = project / "demo/run/metrics.jsonl"
        if count == first:
            few = log.stat().st_size + 30 if size is None else size
            resource.setrlimit(resource.RLIMIT_FSIZE, (few, hard))
        if count == last:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.MonkeyPatch.context() as patched:
        record_steps(patched, after)
        train_tiny(shards, project, console=output.console)
    return output.warnings()


@pytest.mark.parametrize("size", [None, 100_000, 0], ids=["half a line", "half a checkpoint", "nothing"])
def test_file_size_limit_does_not_interrupt_or_change_the_run(tiny_shards, undisturbed, tmp_path, size):
    """The kernel itself rejects writes within a record and within a checkpoint."""
    messages = Child(tmp_path / "log", limited, tiny_shards, tmp_path, 4, 8, size).result()
    named = {
        line.split(": ")[0].removeprefix(f"warning  cannot write {tmp_path}/demo/run/") for line in messages
    }
    assert named >= {"last.pt"} | ({"metrics.jsonl"} if size is None else set())
    assert all("File too large" in line or "No space left on device" in line for line in messages)
    assert differences(tmp_path / "demo/run", undisturbed) == []


def resident_after(shards, project, first, last):
    """Return the resident memory in MiB after two numbers of steps."""
    found = {}

    def after(count):
        if count in (first, last):
            text = Path("/proc/self/status").read_text()
            found[count] = int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    keep_freed_memory()
    with pytest.MonkeyPatch.context() as patched:
        record_steps(patched, after)
        train_demo(shards, project, TINY, batch_size=5, epochs=last // (sum(TINY_COUNTS) // 5) + 1)
    return found[first], found[last]


def test_memory_does_not_grow_with_the_steps(tiny_shards, tmp_path):
    early, late = Child(tmp_path / "log", resident_after, tiny_shards, tmp_path, 100, 400).result()
    assert late < 1.05 * early
