"""All parts of benchmarks/gpu.py with tiny sizes on the CPU."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"
# GPU machines may have neither simplejpeg nor scikit-learn.
BLOCK_IMPORTS = "import sys, runpy; sys.modules.update(simplejpeg=None, sklearn=None); del sys.argv[0]; "
RUN = (
    BLOCK_IMPORTS
    + "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The results and the Markdown page of the benchmark."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "-c", RUN, str(SCRIPT), "--device", "cpu", "--small", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def test_every_part_runs_and_has_a_table(report):
    result, page = report
    assert result["left_out"] == []
    assert result["failed"] == {}
    for part in ("graph", "step", "corrupt", "training", "decode", "peers", "modes"):
        assert result["seconds"][part] >= 0
        assert f"## {part}\n" in page


def test_the_same_backend_gives_equal_images_and_steps(report):
    for kind in report[0]["graph"].values():
        assert kind == {"mean_levels": 0, "max_levels": 0, "rest_equal": True}
    steps = report[0]["step"]
    for phase in ("warmup", "interpolative"):
        assert set(steps[f"float32 {phase}"].values()) == {0}
        rounded = steps[f"bfloat16 {phase}"]
        assert 0 < rounded["gradient"] < 0.5  # the same computation in another precision
        assert rounded["loss"] < 0.05


def test_damaged_images_are_found_and_replaced_within_their_class(report):
    corrupt = report[0]["corrupt"]
    assert corrupt["found"] == corrupt["planted"] == [1, 3, 5, 8]
    assert corrupt["named"] == 4
    assert corrupt["labels_as_planned"] is True


def test_rates_and_times_are_positive_and_ordered(report):
    assert set(report[0]["modes"]) == {"resnet18", "resnet8"}
    assert all(mode["eager, ms a step"] > 0 for mode in report[0]["modes"].values())
    for training in report[0]["training"].values():
        assert all(rate["median"] > 0 for rate in training["images_per_second"].values())
    for decode in report[0]["decode"].values():
        assert 0 < decode["batch_ms_p50"] <= decode["batch_ms_p99"]
        assert decode["images_per_second"] > 0
    peers = report[0]["peers"]
    assert set(peers["loader"]) == {"ours", "pillow", "decode_jpeg", "ours / pillow", "ours / decode_jpeg"}
    assert set(peers["step"]) == {"ours", "eager", "ours / eager"}
    ours, pillow = (peers["loader"][name]["runs"][0] for name in ("ours", "pillow"))
    assert peers["loader"]["ours / pillow"] == [pytest.approx(ours / pillow, rel=1e-4)]


def test_a_missing_gpu_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^torch finds no GPU\. Add --device cpu --small\.$"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_a_failed_part_is_reported_and_the_others_continue(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("the decoder is missing")

    monkeypatch.setattr("fasticcl.data.loader.graph.build", fail)
    # It would affect the process of the tests.
    monkeypatch.setattr("fasticcl.system.allocator.keep_freed_memory", lambda: True)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    arguments = ["--device", "cpu", "--small", "--only", "graph", "corrupt", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert exit.value.code == 1
    failed = json.loads((tmp_path / "gpu.json").read_text())["failed"]
    assert failed == dict.fromkeys(["graph", "corrupt"], "RuntimeError: the decoder is missing")
    assert "Failed: corrupt: RuntimeError: the decoder is missing" in capsys.readouterr().out
