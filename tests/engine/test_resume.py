"""Runs that end early and go on: at every step, from damaged checkpoints, again and again, to the bit."""

import os
import shutil
import signal
import stat
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import fasticcl
from fasticcl.engine.loop import SaveClock
from fasticcl.engine.run.checkpoint import load_checkpoint, save_checkpoint
from fasticcl.errors import Stopped, UserError
from tests.support.small_runs import (
    TINY_STEPS,
    Heard,
    Power,
    differences,
    equal,
    metrics,
    resume,
    start_tiny,
    watch,
)

ALL = 4 * TINY_STEPS


@pytest.fixture(scope="module")
def encoder(request):
    return getattr(request, "param", "frozen")


both_encoders = pytest.mark.parametrize("encoder", ["frozen", "tuned"], indirect=True, scope="module")


@pytest.fixture
def begin(encoder, tiny_shards, tmp_path):
    return partial(start_tiny, tiny_shards, tmp_path, {"rebalance.encoder": encoder})


@pytest.fixture(scope="module")
def undisturbed(encoder, tiny_shards, tmp_path_factory):
    """A run that nobody stopped."""
    settings = {"rebalance.encoder": encoder}
    return start_tiny(tiny_shards, tmp_path_factory.mktemp("undisturbed"), settings).run


def crash_after(*steps):
    """What `watch` calls: the process ends after these steps, before their line and their checkpoint."""

    def after(count):
        if count in steps:
            raise Power

    return after


def crash(call, *steps):
    with pytest.MonkeyPatch.context() as patched:
        watch(patched, crash_after(*steps))
        with pytest.raises(Power):
            call()


@pytest.mark.parametrize(
    ("encoder", "step"),
    [("frozen", step) for step in range(1, ALL + 1)] + [("tuned", step) for step in range(ALL - 3, ALL + 1)],
    indirect=["encoder"],
)
def test_a_run_that_ends_at_any_step_goes_on_to_the_same_bits(
    begin, undisturbed, tmp_path, monkeypatch, step
):
    crash(begin, step)
    taken = watch(monkeypatch)
    resume(tmp_path)
    # At most the last two steps are taken again; the checkpoint of a step comes after it.
    assert ALL - step + 1 <= len(taken) <= ALL - step + 2
    assert differences(tmp_path / "demo/run", undisturbed) == []


@both_encoders
def test_a_run_that_is_stopped_after_every_single_step_ends_in_the_same_bits(
    begin, undisturbed, tmp_path, monkeypatch
):
    taken = watch(monkeypatch, lambda _: os.kill(os.getpid(), signal.SIGTERM))
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
def test_a_run_that_crashes_again_and_again_ends_in_the_same_bits(begin, undisturbed, tmp_path, monkeypatch):
    taken = watch(monkeypatch, crash_after(*range(3, 60, 3)))
    crashes = 0
    with pytest.raises(Power):
        begin()
    while True:
        try:
            resume(tmp_path)
        except Power:
            crashes += 1
        else:
            break
    assert crashes >= 3
    assert len(taken) > ALL
    assert differences(tmp_path / "demo/run", undisturbed) == []


@both_encoders
@pytest.mark.parametrize("step", [3, 8, 11])
def test_a_crash_between_the_renamings_of_two_checkpoints_loses_neither(
    begin, undisturbed, tmp_path, monkeypatch, step
):
    replace, folder = os.replace, tmp_path / "demo/run"

    def cut(source, target):
        if count >= step and target == folder / "last.pt":
            raise Power
        replace(source, target)

    count = 0

    def counted(taken):
        nonlocal count
        count = taken

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", cut)
        watch(patched, counted)
        with pytest.raises(Power):
            begin()
    assert not (folder / "last.pt").exists()
    resume(tmp_path)
    assert differences(folder, undisturbed) == []


@pytest.mark.parametrize("step", [2, 8, 12])
def test_a_checkpoint_is_written_every_so_many_steps_and_at_the_end_of_an_epoch(begin, tmp_path, step):
    crash(begin, step)
    if step == 2:
        assert not (tmp_path / "demo/run/last.pt").exists()
        return
    saved = load_checkpoint(tmp_path / "demo/run/last.pt")
    place = (saved["stage"], saved["epoch"], saved["step"])
    assert place == {8: ("representation", 2, 0), 12: ("rebalancing", 0, 2)}[step]


def flip_a_weight(path):
    """Flip one bit of one weight, and leave the file a sound archive but for its checksum."""
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


@pytest.fixture
def crashed(begin, tmp_path):
    """The folder of a run that crashed in the interpolative phase, with two checkpoints in one epoch."""
    crash(begin, 9)
    return tmp_path / "demo/run"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_makes_way_for_the_one_before(crashed, undisturbed, tmp_path, damage):
    places = [load_checkpoint(crashed / name)["step"] for name in ("previous.pt", "last.pt")]
    assert places == [0, 2]
    DAMAGES[damage](crashed / "last.pt")
    heard = Heard()
    resume(tmp_path, console=heard.console)
    said = heard.warnings()
    assert len(said) == 1
    assert f"The checkpoint {crashed / 'last.pt'} cannot be read" in said[0]
    assert said[0].endswith("Falling back to previous.pt")
    assert differences(crashed, undisturbed) == []


def test_a_damaged_checkpoint_never_takes_the_place_of_the_sound_one_before(
    crashed, undisturbed, tmp_path, monkeypatch
):
    """Power goes at the worst moment: while the first checkpoint after the damaged one is put in place."""
    (crashed / "last.pt").write_bytes(b"damaged")
    replace = os.replace

    def cut(source, target):
        replace(source, target)
        if target == crashed / "previous.pt":
            raise Power

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", cut)
        watch(patched, crash_after(3))
        with pytest.raises(Power):
            resume(tmp_path)
    resume(tmp_path)
    assert differences(crashed, undisturbed) == []


@pytest.mark.parametrize("damage", ["empty", "a bit of a weight"])
def test_two_damaged_checkpoints_are_one_sentence(crashed, tmp_path, damage):
    before = (crashed / "metrics.jsonl").read_bytes()
    for name in ("last.pt", "previous.pt"):
        DAMAGES[damage](crashed / name)
    with pytest.raises(UserError, match=r"^The checkpoint .*/(last|previous)\.pt cannot be read .*\.$"):
        resume(tmp_path)
    assert (crashed / "metrics.jsonl").read_bytes() == before


def test_any_flipped_byte_is_noticed_or_changes_nothing(undisturbed, tmp_path):
    content, whole = (undisturbed / "last.pt").read_bytes(), load_checkpoint(undisturbed / "last.pt")
    rng = np.random.default_rng(0)
    # Half of the places in the tensors, half in the headers at the end, where flips do most harm.
    places = [*rng.integers(0, len(content), 60), *(len(content) - rng.integers(1, 6000, 60))]
    refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            assert equal(load_checkpoint(tmp_path / "damaged.pt"), whole)
        except UserError:
            refused += 1
    assert refused > 60


def test_no_entry_of_a_checkpoint_can_pass_for_a_folder(undisturbed, tmp_path):
    """torch reads nothing at all of an entry with that one bit set, and says nothing."""
    content = bytearray((undisturbed / "last.pt").read_bytes())
    with zipfile.ZipFile(undisturbed / "last.pt") as archive:
        start = archive.start_dir
        tensor = max(archive.infolist(), key=lambda entry: entry.file_size)
    place = content.index(tensor.filename.encode(), start) - 46 + 38  # the external attributes of its record
    assert content[place] == 0
    content[place] = 0x10
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "damaged.pt")


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_checkpoint_cannot_execute_code(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("os.system", called.append)
    torch.save({"format": 2, "evil": Evil()}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "last.pt")
    assert not called


def test_a_checkpoint_of_another_version_is_named(tmp_path):
    torch.save({"format": 1}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"does not have format 2, .* Continue with"):
        load_checkpoint(tmp_path / "last.pt")


def test_tensors_and_plain_values_come_back_as_they_were(tmp_path):
    content = {"a": torch.randn(3, generator=torch.Generator().manual_seed(0)), "b": [1, 2.5, None, "x"]}
    save_checkpoint(tmp_path / "one.pt", content)
    assert equal(load_checkpoint(tmp_path / "one.pt"), {"format": 2, **content})
    assert [path.name for path in tmp_path.iterdir()] == ["one.pt"]


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_beginning(begin, undisturbed, tmp_path):
    crash(begin, 2)
    folder = tmp_path / "demo/run"
    assert not (folder / "last.pt").exists()
    assert len(metrics(folder)) == 1  # the line of the first step, which will be taken again
    resume(tmp_path)
    assert differences(folder, undisturbed) == []


@pytest.fixture
def crashed_after_a_line(begin, tmp_path):
    """The folder of a run that crashed with a line in metrics.jsonl that no checkpoint covers."""
    crash(begin, 8)
    return tmp_path / "demo/run"


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_last_line_that_is_cut_short_is_left_out(crashed_after_a_line, undisturbed, tmp_path, keep):
    log = crashed_after_a_line / "metrics.jsonl"
    *lines, last = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines) + last[: int(len(last) * keep)])
    resume(tmp_path)
    assert differences(crashed_after_a_line, undisturbed) == []


@pytest.mark.parametrize(
    "torn", [b"\xff\xfe\x00", b"null\n", b"[]\n", b'{"stage": "other"}\n', b'{"epoch": 1}'], ids=repr
)
def test_a_torn_line_of_any_kind_is_left_out(crashed_after_a_line, undisturbed, tmp_path, torn):
    with open(crashed_after_a_line / "metrics.jsonl", "ab") as log:
        log.write(torn)
    resume(tmp_path)
    assert differences(crashed_after_a_line, undisturbed) == []


class Disk:
    """Knows what reached the disk: after a power cut a file holds what it held when it was last flushed."""

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
def test_after_a_power_cut_the_files_have_all_that_the_checkpoint_covers(
    begin, undisturbed, tmp_path, monkeypatch, step
):
    disk = Disk(monkeypatch)
    crash(begin, step)
    disk.power_cut(tmp_path / "demo/run")
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", undisturbed) == []


def test_each_step_has_one_line_and_each_epoch_one_row(begin, tmp_path):
    crash(begin, 5)
    resume(tmp_path)
    records = metrics(tmp_path / "demo/run")
    steps = [(r["stage"], r["epoch"], r["step"]) for r in records if "val/top1" not in r]
    stages = [("representation", epoch) for epoch in (1, 2, 3)] + [("rebalancing", 1)]
    assert steps == [(*each, step) for each in stages for step in (1, 2, 3)]
    rows = (tmp_path / "demo/run/results.csv").read_text().splitlines()[1:]
    assert [tuple(row.split(",")[:2]) for row in rows] == [(stage, str(epoch)) for stage, epoch in stages]


def test_a_finished_run_is_left_as_it_is_and_said_to_be_finished(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "demo/run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    heard = Heard()
    resume(tmp_path, console=heard.console)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert heard.file.getvalue() == f"run      {folder} is already finished\n"


def test_a_run_that_ended_between_its_weights_and_the_last_tidying_is_tidied(undisturbed, tmp_path):
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
def test_a_resumed_run_says_from_where_it_goes_on(begin, tmp_path, step, place):
    crash(begin, step)
    heard = Heard()
    crash(partial(resume, tmp_path, console=heard.console), 1)
    assert [line for line in heard.file.getvalue().splitlines() if line.startswith("resumed")] == [
        f"resumed  {place}"
    ]


@pytest.mark.parametrize("every", ["500", "15m", "1"])
def test_save_every_takes_steps_or_minutes(every):
    assert fasticcl.configure("demo", save_every=every).engine.save_every == every


@pytest.mark.parametrize("options", [{"save_every": 500}, {"set": {"engine.save_every": 500}}], ids=str)
def test_steps_may_be_a_plain_number(options):
    assert fasticcl.configure("demo", **options).engine.save_every == "500"
    assert fasticcl.configure("demo", set=["engine.save_every=500"]).engine.save_every == "500"


@pytest.mark.parametrize("every", ["0", "0m", "1h", "-5", "1.5m", "", 0, 1.5, True])
def test_save_every_takes_nothing_else(every):
    with pytest.raises(UserError) as refused:
        fasticcl.configure("demo", set={"engine.save_every": every})
    assert str(refused.value) == (
        f"engine.save_every is a number of steps (500) or of minutes (15m), not {every!r}."
    )


def test_minutes_are_counted_from_the_last_checkpoint(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock = SaveClock("15m")
    due = []
    for now in (60.0, 899.0, 900.0):  # noqa: B007  the clock reads it
        due.append(clock.due())
    assert due == [False, False, True]
    now = 901.0
    clock.restart()
    now = 1800.0
    assert not clock.due()
    now = 1801.0
    assert clock.due()
