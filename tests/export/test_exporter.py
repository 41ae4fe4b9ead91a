"""Export of runs and weight files, verification and error messages."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import fasticcl
from fasticcl.cli.main import main
from fasticcl.engine.run.checkpoint import load_checkpoint, save_checkpoint
from fasticcl.errors import ExportFailed, UserError
from fasticcl.export import formats
from tests.support.trained_runs import fresh_weights, logits_of, network_of, noise_pixels


def test_best_exports_the_weights_of_the_best_epoch_to_their_own_file(run):
    checkpoint = load_checkpoint(run / "best.pt")
    checkpoint["network"]["classifier.bias"] += torch.arange(10.0)  # makes it differ from the last epoch
    save_checkpoint(run / "best.pt", {key: value for key, value in checkpoint.items() if key != "format"})
    assert fasticcl.export(run, format="pt2", best=True).file == run / "best.pt2"
    pixels = noise_pixels(2)
    logits, _ = torch.export.load(run / "best.pt2").module()(torch.from_numpy(pixels))
    expected = logits_of(network_of(run, checkpoint["network"]), pixels)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    assert not (run / "model.pt2").exists()


@pytest.fixture
def faulty_pt2(monkeypatch):
    """Make pt2 export a classifier bias that differs from the network for one class."""
    pt2 = formats.FORMATS["pt2"]

    def pack(classifier):
        bias = classifier.network.classifier.bias
        bias[0] += 0.01
        content = pt2.pack(classifier)
        bias[0] -= 0.01
        return content

    monkeypatch.setattr(formats, "FORMATS", {**formats.FORMATS, "pt2": replace(pt2, pack=pack)})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("faulty_pt2")
def test_file_with_wrong_outputs_is_removed_and_the_previous_one_kept(run):
    (run / "model.pt2").write_text("the previous export")
    before = contents(run)
    with pytest.raises(ExportFailed, match=r"differ from PyTorch by \d\.\de-0[23], more than 1e-04"):
        fasticcl.export(run, format="pt2")
    assert contents(run) == before


@pytest.mark.usefixtures("faulty_pt2")
def test_wrong_outputs_end_the_command_with_exit_code_1(run, run_cli):
    code, out, err = run_cli("export", run, "--format", "pt2")
    assert (code, out) == (1, "")
    assert err.startswith("error: The exported file was removed because its outputs differ")


def test_nan_weights_are_not_exported(tmp_path):
    network = fresh_weights(tmp_path / "trees.safetensors")
    broken = {**network.state_dict(), "classifier.bias": torch.full((3,), torch.nan)}
    with safe_open(tmp_path / "trees.safetensors", "pt") as file:
        save_file(broken, tmp_path / "broken.safetensors", file.metadata())
    with pytest.raises(ExportFailed, match="by nan"):
        fasticcl.export(tmp_path / "broken.safetensors", format="pt2")
    assert {path.name for path in tmp_path.iterdir()} == {"trees.safetensors", "broken.safetensors"}


def test_command_prints_file_signature_difference_and_card(run, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["fasticcl", "export", str(run)])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    output = capfd.readouterr()
    assert output.err == ""
    file, images, outputs, checked, card = output.out.splitlines()
    assert file.startswith(f"file    {run / 'model.onnx'}, ")
    assert images == "input   images: uint8 [batch, 8, 8, 3], RGB, 0 to 255"
    assert outputs == "output  logits, probabilities: float32 [batch, 10]"
    assert re.match(
        r"checked against PyTorch on random images: outputs differ by at most \d\.\de-\d\d ", checked
    )
    assert card == f"card    {run / 'MODEL_CARD.md'}, describes {file.split(',')[0].rsplit('/')[-1]}"


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_without_its_extra_reports_what_to_install(run, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # makes the import fail
    before = contents(run)
    with pytest.raises(UserError, match=rf"needs {module}.*: pip install 'fasticcl\[export\]'$"):
        fasticcl.export(run)
    assert contents(run) == before
    assert fasticcl.export(run, format="pt2").file.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onx"}, "Did you mean onnx"),
        ({"input": "uint"}, "Did you mean uint8"),
        ({"format": "pt2", "output": "model.onnx"}, r"must end with \.pt2, got model\.onnx"),
        ({"format": "safetensors", "input": "float"}, "Omit --input"),
        ({"format": "pt2", "output": "nowhere/model.pt2"}, "Cannot write nowhere/model.pt2: No such file"),
        ({"format": "safetensors", "output": "model.safetensors", "best": True}, "Choose another --output"),
    ],
)
def test_invalid_arguments_raise_user_error_and_write_nothing(run, monkeypatch, arguments, message):
    monkeypatch.chdir(run)
    before = contents(run)
    with pytest.raises(UserError, match=message):
        fasticcl.export(run, **arguments)
    assert contents(run) == before


def test_foreign_or_damaged_weights_raise_user_error(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 100)
    for name, message in (("foreign", "fasticcl did not write it"), ("damaged", "cannot be read")):
        with pytest.raises(UserError, match=message):
            fasticcl.export(tmp_path / f"{name}.safetensors", format="pt2")
    with pytest.raises(UserError, match="no finished weights"):
        fasticcl.export(tmp_path, format="pt2")
    assert len([*tmp_path.iterdir()]) == 2


def test_safetensors_of_a_run_are_unchanged_and_get_a_card(run):
    before = (run / "model.safetensors").read_bytes()
    fasticcl.export(run, format="safetensors")
    assert (run / "model.safetensors").read_bytes() == before
    assert (run / "MODEL_CARD.md").is_file()
