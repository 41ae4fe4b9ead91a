"""``fasticcl bench``: errors, printed results and the JSON file."""

import json
import subprocess
import sys

import pytest

SMALL = (
    *("--images", "20", "--batch-size", "4", "--image-size", "16"),
    *("--device", "cpu", "--workers", "1", "--seconds", "0.01", "--repeats", "2"),
)


@pytest.fixture(autouse=True)
def default_allocator(monkeypatch):
    """Leave the allocator of the process of the tests unchanged."""
    monkeypatch.setattr("fasticcl.cli.bench.keep_freed_memory", lambda _: True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bench", "speed"], "No such command 'speed'"),
        (["bench", "plan", "imagenet"], "There is no dataset preset 'imagenet'. Did you mean imagenet-lt?"),
        (["bench", "plan", "--phase", "warm"], "There is no phase 'warm'. Did you mean warmup?"),
        (["bench", "plan", "--repeats", "0"], "'--repeats'"),
        (["bench", "plan", "--seconds", "0"], "'--seconds'"),
        (["bench", "plan", "--device", "cpu"], "--device"),  # plan has no such option
        (["bench", "plan", "--set", "data.gama=1"], "Did you mean data.gamma?"),
        (["bench", "loader", "--data", "nowhere"], "There are no shards of folder in nowhere"),
        (["bench", "loader", "--device", "gpu"], "torch detects no GPU"),
        (["bench", "step", *SMALL[:2], "--batch-size", "8"], "--images"),  # step has no such option
        (["bench", "step", "--encoder", "resnet51", "--device", "cpu"], "There is no encoder 'resnet51'."),
        (["bench", "convert", "--data", "nowhere"], "Cannot read the folder nowhere: No such file"),
        (["bench", "plan", "--json", "nowhere/result.json"], "There is no folder nowhere for --json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_give_one_sentence_and_exit_code_2(
    fasticcl_command, tmp_path, arguments, sentence, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = fasticcl_command(*arguments)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in out + err
    assert len([line for line in err.splitlines() if "rror: " in line]) == 1
    assert list(tmp_path.iterdir()) == []


def test_train_prints_figures_and_advice_and_writes_json(fasticcl_command, tmp_path):
    code, out, _ = fasticcl_command("bench", "train", "--encoder", "resnet8", *SMALL, "--json", "result.json")
    assert code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["advice"] in out
    assert "train interpolative" in out
    assert "note: images: " in out
    assert result["settings"]["encoder"] == "resnet8"


def test_help_imports_neither_torch_nor_dali():
    code = (
        "import sys; sys.argv = ['fasticcl', 'bench', 'train', '--help']\n"
        "from fasticcl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'nvidia.dali', 'numpy'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"
    assert "--encoder" in process.stdout
