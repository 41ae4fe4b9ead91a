"""The files of a run in training when its checkpoint is missing or damaged."""

import pytest

from fasticcl.errors import UserError
from tests.support.small_runs import metrics, resume, same_weights


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint"])
def test_damaged_checkpoint_is_named_in_the_error(train, tmp_path, damage):
    report = train()
    (report.run / "last.pt").write_bytes(damage)
    with pytest.raises(UserError, match=r"The checkpoint .*last\.pt cannot be read"):
        resume(tmp_path)


def test_run_without_a_checkpoint_resumes_from_the_beginning(train, tmp_path):
    undisturbed, stopped = train(name="undisturbed"), train()
    for name in ("last.pt", "model.safetensors"):
        (stopped.run / name).unlink()
    resume(tmp_path)
    assert metrics(stopped.run) == metrics(undisturbed.run)
    assert same_weights(stopped.run, undisturbed.run)


def test_finished_run_without_checkpoint_cannot_be_resumed(train, tmp_path):
    run = train().run
    (run / "last.pt").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UserError, match=r"is finished and its checkpoint last\.pt is missing"):
        resume(tmp_path)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
