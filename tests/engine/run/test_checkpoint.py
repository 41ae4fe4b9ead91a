"""Tests of checkpoint files: their content, and detection of damage."""

import os
import zipfile

import numpy as np
import pytest
import torch

from fasticcl.engine.run.checkpoint import BestEpoch, Checkpoint, load_checkpoint, save_checkpoint
from fasticcl.errors import UserError
from tests.support.small_runs import equal, train_tiny


@pytest.fixture(scope="module")
def run(tiny_shards, tmp_path_factory):
    """The folder of a finished run."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("run")).run


def test_checkpoint_file_has_its_documented_keys_and_round_trips(run, tmp_path):
    keys = ["format", "stage", "epoch", "step", "partial", "bad_rows", "data", "epochs", "unwritten"]
    content = load_checkpoint(run / "last.pt")
    assert [*content] == [*keys, "network", "teacher", "optimizer"]
    Checkpoint.load(run / "last.pt").save(tmp_path / "last.pt")
    copied = load_checkpoint(tmp_path / "last.pt")
    assert copied.keys() == content.keys()
    assert all(equal(copied[key], content[key]) for key in content)


def test_best_epoch_file_round_trips(run, tmp_path):
    content = load_checkpoint(run / "best.pt")
    assert [*content] == ["format", "network", "record"]
    BestEpoch.load(run / "best.pt").save(tmp_path / "best.pt")
    assert equal(load_checkpoint(tmp_path / "best.pt"), content)


def test_any_flipped_bit_is_detected_or_harmless(run, tmp_path):
    content, whole = (run / "last.pt").read_bytes(), load_checkpoint(run / "last.pt")
    rng = np.random.default_rng(0)
    # Half of the offsets are in the tensors, half in the headers at the end of the file.
    offsets = [*rng.integers(0, len(content), 60), *(len(content) - rng.integers(1, 6000, 60))]
    refused = 0
    for offset in offsets:
        damaged = bytearray(content)
        damaged[offset] ^= 1 << rng.integers(8)
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            assert equal(load_checkpoint(tmp_path / "damaged.pt"), whole)
        except UserError:
            refused += 1
    assert refused > 60


def test_zip_entry_marked_as_directory_is_detected(run, tmp_path):
    """torch silently skips an entry with this bit set."""
    content = bytearray((run / "last.pt").read_bytes())
    with zipfile.ZipFile(run / "last.pt") as archive:
        start = archive.start_dir
        tensor = max(archive.infolist(), key=lambda entry: entry.file_size)
    offset = content.index(tensor.filename.encode(), start) - 46 + 38  # the external attributes of its record
    assert content[offset] == 0
    content[offset] = 0x10
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "damaged.pt")


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_loading_a_checkpoint_executes_no_code(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("os.system", called.append)
    torch.save({"format": 2, "evil": Evil()}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "last.pt")
    assert not called


def test_checkpoint_of_another_format_is_an_error(tmp_path):
    torch.save({"format": 1}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"does not have format 2, .* Continue with"):
        load_checkpoint(tmp_path / "last.pt")


def test_tensors_and_plain_values_round_trip(tmp_path):
    content = {"a": torch.randn(3, generator=torch.Generator().manual_seed(0)), "b": [1, 2.5, None, "x"]}
    save_checkpoint(tmp_path / "one.pt", content)
    assert equal(load_checkpoint(tmp_path / "one.pt"), {"format": 2, **content})
    assert [path.name for path in tmp_path.iterdir()] == ["one.pt"]
