"""The command line: errors of one sentence for invalid arguments, and the version."""

import pytest

import fasticcl


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "demo", "--epoch", "3"], "--epochs"),
        (["train", "dmeo"], "There is no dataset preset 'dmeo'. Did you mean demo?"),
        (["train", "demo", "--method", "icc"], "Did you mean iccl?"),
        (["train", "demo", "--set", "method.temprature=1"], "Did you mean method.temperature?"),
        (
            ["train", "demo", "--set", "optimiser.lr=1"],
            "There is no section 'optimiser'. Did you mean optim?",
        ),
        (["train", "demo", "--set", "optim.lr=fast"], "optim.lr: "),
        (["train", "demo", "--lr", "fast"], "'--lr'"),
        (["train", "demo", "--lr", "-1"], "optim.lr: input should be greater than 0, got -1.0."),
        (["train"], "Specify a dataset to train on: "),
        (["train", "inat2018"], "fasticcl convert inat2018 SRC data/inat2018"),
        (
            ["train", "cifar100-lt", "--imbalance", "50"],
            "fasticcl convert cifar100-lt SRC data/cifar100-lt --imbalance 50",
        ),
        (["train", "imagenet-lt", "--data", "nowhere"], "fasticcl convert imagenet-lt SRC nowhere"),
        (
            ["train", "cifar100-lt", "--imbalance", "20"],
            "data.imbalance: input should be 100, 50 or 10, got 20.",
        ),
        (["train", "demo", "--device", "gpu"], "torch detects no GPU"),
        (["train", "demo", "--device", "tpu"], "engine.device: "),
        (
            ["train", "demo", "--resume"],
            "There is no run to resume in runs/demo. Start one without --resume.",
        ),
        (["train", "-c", "nowhere.toml"], "Cannot read the configuration nowhere.toml: No such file"),
        (["convert", "folder", "nowhere", "shards"], "Cannot read the folder nowhere: No such file"),
        (["convert", "coco", "nowhere", "shards"], "There is no layout 'coco'. Known: inat2018, "),
        (["presets", "inat"], "Did you mean inat2018?"),
        (["eval", "nowhere"], "nowhere is not a run folder: it has no config.toml."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    fasticcl_command, tmp_path, arguments, sentence, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = fasticcl_command(*arguments)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in out + err
    assert len([line for line in err.splitlines() if "rror: " in line]) == 1
    assert not list(tmp_path.iterdir())  # no file was written


def test_the_version_is_that_of_the_package(fasticcl_command):
    assert fasticcl_command("--version") == (0, f"fasticcl {fasticcl.__version__}\n", "")
