"""benchmarks/gpu.py with tiny sizes on the CPU."""

import importlib
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.forked_popen import run_script
from tests.support.processes import Child

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.py"
ROWS = {
    "resnet50": 5,
    "bare": 1,
    "resnet32": 5,
    "modes": 2,
    "peers": 3,
    "decode": 2,
    "corrupt": 1,
    "graph": 12,
    "step": 4,
    "resnext50": 5,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start the benchmark without simplejpeg and scikit-learn, which GPU machines may not have.

    Its processes are forked, which saves their imports.
    """
    missing = tmp_path_factory.mktemp("missing")
    for module in ("simplejpeg", "sklearn"):
        (missing / f"{module}.py").write_text("raise ImportError")

    def call(out, *arguments):
        words = ["--device", "cpu", "--small", "--out", out, *arguments]
        return Child(missing / "log", run_script, SCRIPT, *words, path=[missing])

    return call


@pytest.fixture(scope="module")
def report(tmp_path_factory, start):
    """The results and the Markdown page of the benchmark."""
    out = tmp_path_factory.mktemp("gpu")
    start(out).result()
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def rows_of(result, part):
    return {line["row"]: line for line in result["rows"] if line["part"] == part}


def test_every_part_has_all_rows_and_a_table(report):
    result, page = report
    assert result["left_out"] == []
    assert result["failed"] == {}
    parts = [line["part"] for line in result["rows"]]
    assert {part: parts.count(part) for part in parts} == ROWS
    assert [*dict.fromkeys(parts)] == [*ROWS]  # what matters most comes first
    assert all(f"## {part}\n" in page for part in ROWS)


def test_the_same_backend_gives_equal_images_and_steps(report):
    for line in rows_of(report[0], "graph").values():
        assert (line["mean_levels"], line["max_levels"], line["rest_equal"]) == (0, 0, True)
    steps = rows_of(report[0], "step")
    for phase in ("warmup", "interpolative"):
        exact, rounded = steps[f"float32, {phase}"], steps[f"bfloat16, {phase}"]
        assert exact["gradient"] == exact["weights"] == exact["loss"] == 0
        assert 0 < rounded["gradient"] < 0.5  # the same computation in another precision
        assert rounded["loss"] < 0.05


def test_damaged_images_are_found_and_replaced_within_their_class(report):
    line = rows_of(report[0], "corrupt")["two epochs"]
    assert line["found"] == line["damaged"] == [1, 3, 5, 8]
    assert line["decoded without an error"] == line["intact but reported"] == []
    assert line["warnings"] == 4
    assert line["labels as planned, pixels finite"] is True


def test_rates_times_and_ratios_are_consistent(report):
    for part in ("resnet50", "resnet32", "resnext50"):
        for phase in ("warmup", "interpolative"):
            line = rows_of(report[0], part)[f"end to end, {phase}"]
            loader, step, train = (
                line[f"{name}, images/s"]["runs"] for name in ("loader", "step", "end to end")
            )
            assert line["end to end / step"]["runs"] == [pytest.approx(train[0] / step[0], rel=1e-4)]
            assert line["loader / step"]["runs"] == [pytest.approx(loader[0] / step[0], rel=1e-4)]
    assert rows_of(report[0], "modes")["eager"]["this mode, ms/step"] > 0
    captured = rows_of(report[0], "modes")["captured as one CUDA graph, end to end"]
    assert captured["captured / default"]["median"] > 0
    for line in rows_of(report[0], "decode").values():
        assert 0 < line["batch p50, ms"] <= line["batch p99, ms"] <= line["batch max, ms"]
    peer = rows_of(report[0], "peers")["step and research code"]
    ours, research = (peer[f"{name}, images/s"]["median"] for name in ("ours", "research code"))
    assert peer["ours / research code"]["median"] == pytest.approx(ours / research, rel=1e-4)


def is_running(pid):
    try:
        return Path("/proc", pid, "cmdline").read_bytes() != b""  # empty until its parent notices its end
    except OSError:
        return False


def test_a_killed_run_keeps_its_rows_and_can_be_summarized(start, tmp_path):
    process, file = start(tmp_path, "--whole-images", "--only", "graph"), tmp_path / "gpu.jsonl"
    while process.process.is_alive() and (not file.exists() or file.read_text().count("\n") < 3):
        time.sleep(0.01)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert process.kill()
    while is_running(worker):  # limited by the timeout of every test
        time.sleep(0.01)
    kept = [json.loads(line)["row"] for line in file.read_text().splitlines() if line.endswith("}")][1:]
    assert 2 <= len(kept) < 12
    command = [sys.executable, SCRIPT, "--summarize", file]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert [line["row"] for line in result["rows"]] == kept
    assert len(result["left_out"]) == 12 - len(kept)
    assert result["whole_images"] is True
    assert "graph: cached, rebalance" in result["left_out"]
    assert "- graph: cached, rebalance\n" in (tmp_path / "gpu.md").read_text()


def test_a_missing_gpu_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    supervisor, worker = (importlib.import_module(f"_gpu.{name}") for name in ("supervisor", "worker"))
    task = supervisor.Task(tmp_path / "gpu.jsonl", tmp_path, "gpu", False, (), None, 1.0, 0.0)
    with pytest.raises(SystemExit, match=r"^torch finds no GPU\. Add --device cpu --small\.$"):
        worker.work(task)


def test_the_plan_is_printed_with_estimates(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--dry-run", "--cifar", str(tmp_path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr().out
    parts = [line.split(" s  ")[-1].partition(":")[0] for line in output.splitlines()]
    assert [*dict.fromkeys(parts)] == [*[*ROWS][:5], "cifar", *[*ROWS][5:]]
    assert output.startswith("    60 s    60 s  resnet50: step, interpolative\n")
    assert "left out    65 s  resnext50: step, interpolative\n" in output
    assert "left out    90 s  cifar: seed 0\n" not in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "cifar"), "--only cifar: name the shards of CIFAR-100-LT with --cifar DIR."),
        (("--cifar", "missing"), "--cifar: missing is not a folder."),
    ],
)
def test_missing_shards_are_an_error_before_the_start(monkeypatch, capsys, words, message):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().err.endswith(f"error: {message}\n")
