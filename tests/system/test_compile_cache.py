"""The folder of compiled code: in the home folder, unless the user chose another or it is not writable."""

import os
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir, triton_cache_dir

from fasticcl.system.compile_cache import use_persistent_cache
from fasticcl.system.machine import Machine

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty home folder, and the variables as after importing torchvision."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, default_cache_dir())
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return tmp_path


@pytest.mark.parametrize("set_by_torch", [True, False])
def test_folder_replaces_the_default_of_torch(monkeypatch, home, set_by_torch):
    if not set_by_torch:
        monkeypatch.delenv(VARIABLE)
    assert use_persistent_cache() == ""
    folder = home / ".cache/fasticcl/torchinductor"
    assert os.environ[VARIABLE] == str(folder)
    assert Path(triton_cache_dir(0)) == folder / "triton/0"
    assert use_persistent_cache() == ""
    assert os.environ[VARIABLE] == str(folder)


def test_folder_of_the_user_is_kept(monkeypatch, home):
    monkeypatch.setenv(VARIABLE, str(home / "mine"))
    assert use_persistent_cache() == ""
    assert os.environ[VARIABLE] == str(home / "mine")
    assert [*home.iterdir()] == []


def test_default_of_torch_remains_if_the_folder_cannot_be_created(home):
    (home / ".cache").write_text("a file")
    assert "Not a directory" in use_persistent_cache() or "File exists" in use_persistent_cache()
    assert os.environ[VARIABLE] == default_cache_dir()


@pytest.mark.parametrize(
    ("device", "mode", "used"),
    [("cuda:0", "on", True), ("cuda:0", "step", True), ("cuda:0", "off", False), ("cpu", "on", False)],
)
def test_only_code_for_a_gpu_is_kept(monkeypatch, home, device, mode, used):
    monkeypatch.setattr(torch, "compile", lambda part, **_: part)
    machine = Machine(torch.device(device), bfloat16=False, mode=mode)
    machine.compile_forward(torch.nn.Linear(1, 1))
    machine.compile_losses(len)
    assert (os.environ[VARIABLE] == str(home / ".cache/fasticcl/torchinductor")) == used
