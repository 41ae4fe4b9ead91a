"""Everything that `fasticcl bench` measures, in miniature: figures, JSON, page and command line."""

import json
import re
import subprocess
import sys

import pytest

import fasticcl
from fasticcl.bench import suite
from fasticcl.bench.result import page
from fasticcl.errors import UserError

PHASES = ("warmup", "interpolative", "rebalance")
PARTS = ["plan", "read", "wait", "forward", "losses", "backward", "optimiser", "metrics", "log line"]
SMALL = (
    *("--images", "20", "--batch-size", "4", "--image-size", "16"),
    *("--device", "cpu", "--workers", "1", "--seconds", "0.01", "--repeats", "2"),
)


def test_all_measures_every_part_in_every_phase(everything):
    expected = {f"{part} {phase}" for part in ("plan", "loader", "step") for phase in PHASES}
    expected |= {"train interpolative", "convert bytes kept", "convert short side 256"}
    assert set(everything.measured) == expected
    for found in everything.measured.values():
        assert found.unit == "images/s"
        assert len(found.runs) == 2
        assert 0 < found.min <= found.median <= found.max


def test_the_parts_of_a_step_are_all_there_and_took_time(everything):
    assert list(everything.parts) == PARTS
    for name, found in everything.parts.items():
        assert found.unit == "ms/step"
        assert len(found.runs) >= 3
        assert found.min >= 0
        assert found.max > 0, name


def test_json_holds_what_the_figures_depend_on(everything):
    found = json.loads(json.dumps(everything.to_dict()))
    assert found["benchmark"] == "all"
    assert found["format"] == 1
    assert found["fasticcl"] == fasticcl.__version__
    assert {"cpu", "cores", "python", "torch", "nvidia-dali-cuda120", "date"} <= set(found["hardware"])
    assert (
        found["settings"]
        | {
            "dataset": "folder",
            "encoder": "resnet8",
            "batch_size": 4,
            "image_size": 16,
            "workers": 1,
            "device": "cpu",
            "repeats": 2,
            "seconds": 0.01,
        }
        == found["settings"]
    )
    assert found["images"]["made"] is True
    assert found["binds"] in ("loader", "step", "both")
    for each in [*found["measured"].values(), *found["parts"].values()]:
        assert set(each) == {"unit", "median", "min", "max", "runs"}


def test_the_page_has_hardware_versions_settings_figures_advice_and_how_it_was_measured(everything):
    text = page(everything)
    assert text.startswith(f"## fasticcl {fasticcl.__version__}: bench all\n")
    hardware = everything.hardware
    for said in (hardware["cpu"], hardware["torch"], "resnet8", "batch size 4", everything.advice):
        assert said in text
    for name in [*everything.measured, *everything.parts]:
        assert re.search(rf"^\| {name} \|( [\d.,e+-]+ \|){{3}}$", text, re.MULTILINE), name
    for note in ("made by the benchmark", "warm-up is left out", "second pass"):
        assert note in text


def test_the_page_names_no_path(everything):
    words = page(everything).replace("images/s", "").replace("ms/step", "")
    assert "/tmp" not in words
    assert not re.search(r"(^|\s)/\w", words)


def test_images_that_are_at_hand_are_used_and_not_made(photo_shards, tiny):
    found = fasticcl.benchmark("loader", data=photo_shards, **tiny | {"images": None})
    assert found.images["made"] is False
    assert found.images["count"] == 21
    assert found.settings["classes"] == 3
    assert not any("made by" in note for note in found.notes)


def test_the_configuration_of_a_run_is_measured_as_it_is(fasticcl_command, digit_shards, tmp_path):
    settings = ("--set", "method.encoder=resnet8", "--batch-size", "24")
    _, text, _ = fasticcl_command("train", "demo", "--data", digit_shards, *settings, "--print-config")
    (tmp_path / "config.toml").write_text(text)
    timing = ("--seconds", "0.01", "--repeats", "1")
    code, out, _ = fasticcl_command("bench", "step", "-c", "config.toml", *timing, "--json", "found.json")
    assert code == 0
    assert "made by the benchmark" not in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"]["count"] == 392
    kept = {name: found["settings"][name] for name in ("dataset", "encoder", "batch_size", "image_size")}
    assert kept == {"dataset": "demo", "encoder": "resnet8", "batch_size": 24, "image_size": 16}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("dataset", ["demo", "cifar10-lt"])
def test_training_is_measured_in_every_phase_of_a_preset(dataset, phase, tiny):
    found = fasticcl.benchmark("train", dataset, phase=phase, **tiny)
    assert set(found.measured) == {f"{part} {phase}" for part in ("loader", "step", "train")}
    assert found.settings["dataset"] == dataset
    assert found.settings["classes"] == 10
    assert found.parts["forward"].min > 0


def test_a_benchmark_leaves_nothing_behind(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fasticcl.benchmark("train", **tiny)
    assert list(tmp_path.iterdir()) == []


def test_on_a_cpu_the_network_is_small_unless_it_is_set():
    options = {"images": 20, "device": "cpu", "workers": 1, "seconds": 0.01, "repeats": 1}
    found = fasticcl.benchmark("plan", **options)
    assert found.settings["encoder"] == "resnet18"
    assert found.settings["batch_size"] == 4
    assert any("small for a CPU unless set" in note for note in found.notes)
    found = fasticcl.benchmark("plan", encoder="resnet50", set=["optim.batch_size=6"], **options)
    assert found.settings["encoder"] == "resnet50"
    assert found.settings["batch_size"] == 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bench", "speed"], "No such command 'speed'"),
        (["bench", "plan", "imagenet"], "There is no dataset preset 'imagenet'. Did you mean imagenet-lt?"),
        (["bench", "plan", "--phase", "warm"], "There is no phase 'warm'. Did you mean warmup?"),
        (["bench", "plan", "--repeats", "0"], "'--repeats'"),
        (["bench", "plan", "--seconds", "0"], "'--seconds'"),
        (["bench", "plan", "--device", "cpu"], "--device"),  # a plan has no device
        (["bench", "plan", "--set", "data.gama=1"], "Did you mean data.gamma?"),
        (["bench", "loader", "--data", "nowhere"], "There are no shards of folder in nowhere"),
        (["bench", "loader", "--device", "gpu"], "torch sees no GPU here"),
        (["bench", "step", *SMALL[:2], "--batch-size", "8"], "--images"),  # a step needs none
        (["bench", "step", "--encoder", "resnet51", "--device", "cpu"], "There is no encoder 'resnet51'."),
        (["bench", "convert", "--data", "nowhere"], "Cannot read the folder nowhere: No such file"),
        (["bench", "plan", "--json", "nowhere/result.json"], "There is no folder nowhere for --json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_one_sentence_and_exit_code_2(
    fasticcl_command, tmp_path, arguments, sentence, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = fasticcl_command(*arguments)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in out + err
    assert len([line for line in err.splitlines() if "rror: " in line]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"what": "speed"}, {"what": "plan", "repeats": 0}, {"what": "plan", "seconds": -1.0}], ids=str
)
def test_the_python_call_refuses_them_too(options):
    with pytest.raises(UserError):
        suite.benchmark(**options)


def test_more_images_than_there_are_make_no_batch(photo_shards, fasticcl_command):
    code, _, err = fasticcl_command("bench", "loader", "--data", photo_shards, "--batch-size", "22")
    assert code == 2
    assert "use --batch-size 21 or less" in err


def test_train_prints_figures_and_advice_and_writes_json(fasticcl_command, tmp_path):
    code, out, _ = fasticcl_command("bench", "train", "--encoder", "resnet8", *SMALL, "--json", "found.json")
    assert code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["advice"] in out
    assert "train interpolative" in out
    assert "note: images: " in out
    assert found["settings"]["encoder"] == "resnet8"


def test_convert_measures_a_folder_of_images(fasticcl_command, tmp_path):
    from fasticcl.bench.synthetic_images import make_images, write_files

    write_files(make_images(30, 5, 1, width=48, height=32), tmp_path / "images")
    code, out, _ = fasticcl_command(
        *(
            "bench",
            "convert",
            "--data",
            "images",
            "--repeats",
            "1",
            "--seconds",
            "0.01",
            "--json",
            "found.json",
        )
    )
    assert code == 0
    assert "convert bytes kept" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"]["made"] is False
    assert set(found["measured"]) == {"convert bytes kept", "convert short side 256"}


def test_help_imports_neither_torch_nor_dali():
    code = (
        "import sys; sys.argv = ['fasticcl', 'bench', 'train', '--help']\n"
        "from fasticcl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'nvidia.dali', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--encoder" in done.stdout
