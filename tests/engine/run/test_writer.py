"""The files of a run in training when its checkpoint is missing or damaged."""

import json

import pytest
import torch

from fasticcl.engine.run import writer
from fasticcl.engine.run.folder import RunFolder
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from fasticcl.system.jpeg_engine import JpegEngines
from fasticcl.system.machine import Machine
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
