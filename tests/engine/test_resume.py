"""Interrupted runs continue bit-identically: from every step, repeatedly, and from damaged checkpoints."""

import os
import shutil
import signal
import stat
from functools import partial
from pathlib import Path

import pytest

import fasticcl
from fasticcl.engine.run.checkpoint import load_checkpoint
from fasticcl.errors import Stopped, UserError
from tests.support.small_runs import (
    TINY_STEPS,
    ConsoleOutput,
    PowerCut,
    differences,
    metrics,
    record_steps,
    resume,
    train_tiny,
)

ALL = 4 * TINY_STEPS


@pytest.fixture(scope="module")
def encoder(request):
    return getattr(request, "param", "frozen")


both_encoders = pytest.mark.parametrize("encoder", ["frozen", "tuned"], indirect=True, scope="module")


@pytest.fixture
def begin(encoder, tiny_shards, tmp_path):
    return partial(train_tiny, tiny_shards, tmp_path, {"rebalance.encoder": encoder})


@pytest.fixture(scope="module")
def undisturbed(encoder, tiny_shards, tmp_path_factory):
    """An uninterrupted run."""
    settings = {"rebalance.encoder": encoder}
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("undisturbed"), settings).run


def crash_after(*steps):
    """Return a callback for `watch` that crashes after these steps, before their record and checkpoint."""

    def after(count):
        if count in steps:
            raise PowerCut

    return after


def crash(call, *steps):
    with pytest.MonkeyPatch.context() as patched:
        record_steps(patched, crash_after(*steps))
        with pytest.raises(PowerCut):
            call()


@pytest.mark.parametrize(
    ("encoder", "step"),
    [("frozen", step) for step in range(1, ALL + 1)] + [("tuned", step) for step in range(ALL - 3, ALL + 1)],
    indirect=["encoder"],
)
def test_run_killed_at_any_step_resumes_bit_identically(begin, undisturbed, tmp_path, monkeypatch, step):
    crash(begin, step)
    taken = record_steps(monkeypatch)
    resume(tmp_path)
    # At most two steps are repeated, because a checkpoint is written after its step.
    assert ALL - step + 1 <= len(taken) <= ALL - step + 2
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_run_killed_around_the_start_of_resampling_resumes_bit_identically(
    undisturbed, tiny_shards, tmp_path
):
    settings = {"data.resample_start": 0.5, "rebalance.epochs": 0}  # from the third of three epochs on
    expected = train_tiny(tiny_shards, tmp_path / "expected", settings).run
    crash(lambda: train_tiny(tiny_shards, tmp_path, settings), 2 * TINY_STEPS - 1)
    crash(lambda: resume(tmp_path), 4)  # in the third epoch
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", expected) == []
    uniform, resampled = (
        [record for record in metrics(run) if record.get("stage") == "representation"]
        for run in (undisturbed, expected)
    )
    for one, other in zip(uniform, resampled, strict=True):
        assert (one == other) == (one["epoch"] < 3)


def test_a_stage_with_moving_statistics_resumes_and_repeats_bit_identically(tiny_shards, tmp_path):
    """Teacher and student have different classifiers and batch statistics."""
    changes = {
        "encoder": "frozen",
        "batch_norm": "train",
        "class_scale": True,
        "classifier_lr_factor": 0.2,
        "smoothing_head": 0.4,
    }
    settings = {f"rebalance.{key}": value for key, value in changes.items()}
    expected = train_tiny(tiny_shards, tmp_path / "expected", settings)
    crash(
        lambda: train_tiny(tiny_shards, tmp_path, settings), ALL
    )  # its last checkpoint is from the step before
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", expected.run) == []
    assert fasticcl.evaluate(expected.run) == expected
    assert differences(fasticcl.rebalance(expected.run).run, expected.run) == []


@both_encoders
def test_run_stopped_after_every_step_ends_bit_identically(begin, undisturbed, tmp_path, monkeypatch):
    taken = record_steps(monkeypatch, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        begin()
    for _ in range(ALL - 1):
        with pytest.raises(Stopped):
            resume(tmp_path)
    monkeypatch.undo()
    resume(tmp_path)
    assert len(taken) == ALL
    assert differences(tmp_path / "demo/run", undisturbed) == []


@both_encoders
def test_run_that_crashes_repeatedly_ends_bit_identically(begin, undisturbed, tmp_path, monkeypatch):
    taken = record_steps(monkeypatch, crash_after(*range(3, 60, 3)))
    crashes = 0
    with pytest.raises(PowerCut):
        begin()
    while True:
        try:
            resume(tmp_path)
        except PowerCut:
            crashes += 1
        else:
            break
    assert crashes >= 3
    assert len(taken) > ALL
    assert differences(tmp_path / "demo/run", undisturbed) == []


@both_encoders
@pytest.mark.parametrize("step", [3, 8, 11])
def test_crash_between_the_two_checkpoint_renames_loses_nothing(
    begin, undisturbed, tmp_path, monkeypatch, step
):
    replace, folder = os.replace, tmp_path / "demo/run"

    def cut(source, target):
        if count >= step and target == folder / "last.pt":
            raise PowerCut
        replace(source, target)

    count = 0

    def counted(taken):
        nonlocal count
        count = taken

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", cut)
        record_steps(patched, counted)
        with pytest.raises(PowerCut):
            begin()
    assert not (folder / "last.pt").exists()
    resume(tmp_path)
    assert differences(folder, undisturbed) == []


@pytest.mark.parametrize("step", [2, 8, 12])
def test_checkpoints_follow_save_every_and_epoch_ends(begin, tmp_path, step):
    crash(begin, step)
    if step == 2:
        assert not (tmp_path / "demo/run/last.pt").exists()
        return
    saved = load_checkpoint(tmp_path / "demo/run/last.pt")
    place = (saved["stage"], saved["epoch"], saved["step"])
    assert place == {8: ("representation", 2, 0), 12: ("rebalancing", 0, 2)}[step]


def flip_a_weight(path):
    """Flip one bit of a weight. Only the checksum of the archive reveals it."""
    content = bytearray(path.read_bytes())
    weight = load_checkpoint(path)["network"]["encoder.conv.weight"].numpy().tobytes()
    content[content.find(weight) + len(weight) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "something else": lambda path: path.write_bytes(b"not a checkpoint"),
    "a bit of a weight": flip_a_weight,
}


@pytest.fixture(scope="module")
def crashed_runs(tiny_shards, tmp_path_factory):
    """The folders of two runs by the step of their crash."""
    folders = {step: tmp_path_factory.mktemp("crashed") for step in (8, 9)}
    for step, folder in folders.items():
        crash(partial(train_tiny, tiny_shards, folder), step)
    return {step: folder / "demo/run" for step, folder in folders.items()}


@pytest.fixture
def crashed(crashed_runs, tmp_path):
    """A run that crashed in the interpolative phase, with two checkpoints of one epoch."""
    return shutil.copytree(crashed_runs[9], tmp_path / "demo/run")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_falls_back_to_the_previous_one(crashed, undisturbed, tmp_path, damage):
    places = [load_checkpoint(crashed / name)["step"] for name in ("previous.pt", "last.pt")]
    assert places == [0, 2]
    DAMAGES[damage](crashed / "last.pt")
    output = ConsoleOutput()
    resume(tmp_path, console=output.console)
    warnings = output.warnings()
    assert len(warnings) == 1
    assert f"The checkpoint {crashed / 'last.pt'} cannot be read" in warnings[0]
    assert warnings[0].endswith("Falling back to previous.pt")
    assert differences(crashed, undisturbed) == []


def test_damaged_checkpoint_never_replaces_the_previous_one(crashed, undisturbed, tmp_path, monkeypatch):
    """The power cut is at the worst moment, while the first new checkpoint replaces the damaged one."""
    (crashed / "last.pt").write_bytes(b"damaged")
    replace = os.replace

    def cut(source, target):
        replace(source, target)
        if target == crashed / "previous.pt":
            raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", cut)
        record_steps(patched, crash_after(3))
        with pytest.raises(PowerCut):
            resume(tmp_path)
    resume(tmp_path)
    assert differences(crashed, undisturbed) == []


@pytest.mark.parametrize("damage", ["empty", "a bit of a weight"])
def test_two_damaged_checkpoints_give_one_error(crashed, tmp_path, damage):
    before = (crashed / "metrics.jsonl").read_bytes()
    for name in ("last.pt", "previous.pt"):
        DAMAGES[damage](crashed / name)
    with pytest.raises(UserError, match=r"^The checkpoint .*/(last|previous)\.pt cannot be read .*\.$"):
        resume(tmp_path)
    assert (crashed / "metrics.jsonl").read_bytes() == before


def test_run_killed_before_its_first_checkpoint_restarts(begin, undisturbed, tmp_path):
    crash(begin, 2)
    folder = tmp_path / "demo/run"
    assert not (folder / "last.pt").exists()
    assert len(metrics(folder)) == 1  # the record of the first step, which will be repeated
    resume(tmp_path)
    assert differences(folder, undisturbed) == []


@pytest.fixture
def crashed_after_a_record(crashed_runs, tmp_path):
    """A run that crashed with a record that is newer than its checkpoint."""
    return shutil.copytree(crashed_runs[8], tmp_path / "demo/run")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_last_record_is_dropped(crashed_after_a_record, undisturbed, tmp_path, keep):
    log = crashed_after_a_record / "metrics.jsonl"
    *lines, last = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines) + last[: int(len(last) * keep)])
    resume(tmp_path)
    assert differences(crashed_after_a_record, undisturbed) == []


@pytest.mark.parametrize(
    "torn", [b"\xff\xfe\x00", b"null\n", b"[]\n", b'{"stage": "other"}\n', b'{"epoch": 1}'], ids=repr
)
def test_invalid_last_record_is_dropped(crashed_after_a_record, undisturbed, tmp_path, torn):
    with open(crashed_after_a_record / "metrics.jsonl", "ab") as log:
        log.write(torn)
    resume(tmp_path)
    assert differences(crashed_after_a_record, undisturbed) == []


class Disk:
    """Simulates a power cut, after which a file has the content of its last flush."""

    def __init__(self, monkeypatch):
        self.flushed, fsync = {}, os.fsync

        def noted(file):
            fsync(file)
            place = os.fstat(file)
            if stat.S_ISREG(place.st_mode):
                self.flushed[place.st_ino] = Path(f"/proc/self/fd/{file}").read_bytes()

        monkeypatch.setattr("os.fsync", noted)

    def power_cut(self, folder):
        for path in folder.iterdir():
            path.write_bytes(self.flushed.get(path.stat().st_ino, b""))


@pytest.mark.parametrize("step", [2, 3, 9, 12])
def test_power_cut_loses_no_record_before_the_checkpoint(begin, undisturbed, tmp_path, monkeypatch, step):
    disk = Disk(monkeypatch)
    crash(begin, step)
    disk.power_cut(tmp_path / "demo/run")
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_each_step_has_one_record_and_each_epoch_one_row(begin, tmp_path):
    crash(begin, 5)
    resume(tmp_path)
    records = metrics(tmp_path / "demo/run")
    steps = [(r["stage"], r["epoch"], r["step"]) for r in records if "val/top1" not in r]
    stages = [("representation", epoch) for epoch in (1, 2, 3)] + [("rebalancing", 1)]
    assert steps == [(*each, step) for each in stages for step in (1, 2, 3)]
    rows = (tmp_path / "demo/run/results.csv").read_text().splitlines()[1:]
    assert [tuple(row.split(",")[:2]) for row in rows] == [(stage, str(epoch)) for stage, epoch in stages]


def test_resuming_a_finished_run_prints_a_message_and_changes_nothing(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "demo/run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    output = ConsoleOutput()
    report = resume(tmp_path, console=output.console)
    assert report == fasticcl.evaluate(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert output.file.getvalue() == f"run      {folder} is already finished\n"


def test_resume_deletes_a_leftover_previous_checkpoint(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "demo/run")
    shutil.copy(folder / "last.pt", folder / "previous.pt")
    resume(tmp_path)
    assert differences(folder, undisturbed) == []


@pytest.mark.parametrize(
    ("step", "place"),
    [
        (2, "from the beginning, because there is no checkpoint"),
        (3, "representation epoch 1 of 3, step 2 of 3"),
        (4, "representation epoch 2 of 3, step 0 of 3"),
        (ALL - 2, "after the last representation epoch"),
        (ALL, "rebalancing epoch 1 of 1, step 2 of 3"),
    ],
)
def test_resumed_run_prints_its_position(begin, tmp_path, step, place):
    crash(begin, step)
    output = ConsoleOutput()
    crash(partial(resume, tmp_path, console=output.console), 1)
    assert [line for line in output.file.getvalue().splitlines() if line.startswith("resumed")] == [
        f"resumed  {place}"
    ]
