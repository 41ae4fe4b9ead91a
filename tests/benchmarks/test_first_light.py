"""benchmarks/first_light.py with tiny sizes on the CPU: rows, order, failures, time limits and kills."""

import importlib
import json
import os
import runpy
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fasticcl.config import Data
from fasticcl.data.batch import StreamBatch
from tests.support.forked_popen import run_script
from tests.support.processes import Child

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "first_light.py"
NAMES = [
    "imports",
    "decoding",
    "graph",
    "held outputs",
    "synchronisation",
    "loader",
    "resnet50",
    "cuda graphs",
    "resume",
]
NUMBERS = [*range(1, 10)]
FAKE_CHECKS = """
import os, subprocess, sys, time
from _first_light.report import Skipped

def passes(setup, report):
    report.add("process", os.getpid())
    report.add("decode_regions", setup.decode_regions)

def raises(setup, report):
    report.add("before", 1)
    with report.part("first"):
        raise ValueError("one\\ntwo")
    report.add("after", 2)
    raise RuntimeError("Critical error in pipeline:\\nAn operator encountered:\\nno decoder\\nmore")

def skips(setup, report):
    raise Skipped("no reason")

def hangs(setup, report):
    with report.part("the second part"):
        report.add("before", 1)
        time.sleep(1000)

def starts_processes(setup, report):
    words = [sys.executable, "-c", "import time; time.sleep(1000)", str(setup.folder)]
    process = subprocess.Popen(words)
    (setup.folder / "started").touch()
    process.wait()

def crashes_on_regions(setup, report):
    report.add("decode_regions", setup.decode_regions)
    with report.part("regions"):
        os.abort()

def fails_on_regions(setup, report):
    with report.part("regions"):
        raise RuntimeError("nvImageCodec failure: '#8'")

def crashes(setup, report):
    report.add("before", 1)
    os.abort()
"""


def read_rows(out):
    file = out / "first_light.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The rows of all checks by name, and the output.

    The processes are forked, which saves their imports. Checks 8 and 9 start processes, so they run apart
    from checks that have started threads. As on a bare GPU machine, simplejpeg and scikit-learn are missing.
    """
    folder = tmp_path_factory.mktemp("first_light")
    for name in ("simplejpeg", "sklearn"):
        text = f'raise ModuleNotFoundError("No module named {name}", name="{name}")\n'
        (folder / f"{name}.py").write_text(text)
    rows = []
    for numbers in (NUMBERS[:7], NUMBERS[7:]):
        out = folder / f"{numbers[0]}"
        options = ["--device", "cpu", "--small", "--budget", 1000, "--out", out, "--only", *numbers]
        child = Child(folder / "log", run_script, SCRIPT, *options, path=[folder])
        child.result()
        rows += read_rows(out)
    return {row["row"]: row for row in rows}, child.printed()


def test_every_check_has_one_line_in_order(finished):
    rows, output = finished
    assert [*rows] == NAMES
    assert [row["check"] for row in rows.values()] == NUMBERS
    for row in rows.values():
        assert row["result"] == "ok"
        assert row["seconds"] >= 0
    printed = [json.loads(line)["row"] for line in output.splitlines() if line.startswith("{")]
    assert printed == NAMES
    table = [line for line in output.splitlines() if line.startswith(tuple("123456789"))]
    assert [line.split()[0] for line in table] == [*"123456789"]
    assert all(" ok " in line for line in table)


def test_all_checks_run_by_default(monkeypatch, modules):  # noqa: ARG001  the path of the modules
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert runpy.run_path(str(SCRIPT))["parse"]().only == NUMBERS


def test_parts_that_need_a_gpu_are_skipped_with_a_reason(finished):
    skipped = {name: row.get("skipped", {}) for name, row in finished[0].items()}
    assert [name for name in NAMES if skipped[name]] == [
        "imports",
        "decoding",
        "synchronisation",
        "loader",
        "cuda graphs",
    ]
    assert skipped["synchronisation"]["cuda-graphs"] == "compiling takes minutes on a CPU"
    assert skipped["cuda graphs"] == dict.fromkeys(["loop", "capture"], "CUDA graphs need a GPU")


def test_missing_packages_of_the_demo_alone_are_no_failure(finished):
    figures = finished[0]["imports"]["figures"]
    assert figures["missing_for_the_demo_only"] == ["simplejpeg", "sklearn"]
    assert figures["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert figures["modules"] > 50


def test_the_cpu_gives_equal_images_in_every_shape(finished):
    rows, _ = finished
    graph = rows["graph"]["figures"]
    assert len(graph) == 7 * 4 + 3
    for figures in graph.values():
        assert figures == {"mean_levels": 0, "max_levels": 0, "labels_and_lambda_equal": True}
    for figures in rows["held outputs"]["figures"].values():
        assert figures["held"] == figures["read in stream order"] == {"levels": 0, "rest_equal": True}
    assert rows["decoding"]["figures"]["the CPU against Pillow"]["4:2:0"]["mean_levels"] < 1
    assert rows["decoding"]["figures"]["regions on the CPU"] == {"regions": 8, "bit_equal": True}


def test_steps_rates_and_runs_are_reported(finished):
    rows, _ = finished
    waits = rows["synchronisation"]["figures"]
    phases = ("warmup", "interpolative", "rebalance")
    assert [*waits] == [f"{mode} {phase}" for mode in ("off", "captured") for phase in phases]
    assert all(each["waits"] == {} for each in waits.values())
    assert all(waits[f"off {phase}"] == waits[f"captured {phase}"] for phase in phases)
    assert all(each["images_per_second"] > 0 for each in rows["loader"]["figures"].values())
    assert rows["resnet50"]["figures"]["interpolative"]["ms_per_step"] > 0
    captured = rows["cuda graphs"]["figures"]["captured"]
    assert captured["exit_code"] == 0
    assert captured["compared"]["largest_difference"] == 0
    assert captured["eager"]["spread"] > 0
    resume = rows["resume"]["figures"]
    assert resume["images"].startswith("synthetic, because of ")
    assert 0 < resume["records_when_stopped"] < resume["resumed"]["records"]
    assert resume["resumed"]["bit_equal"] is True


KILLED = """
import sys
from pathlib import Path
from _first_light.checks import Check
from _first_light.setup import Setup
from _first_light.supervisor import run_checks
from _gpu.rows import Rows

folder = Path(sys.argv[1])
checks = [Check(1, "one", "fakes:passes", 9), Check(2, "two", "fakes:raises", 9)]
checks.append(Check(3, "three", "fakes:starts_processes", 99))
run_checks(checks, Setup("cpu", True, folder), Rows(folder / "first_light.jsonl", 1000))
"""


def test_a_kill_loses_no_finished_line_and_leaves_no_process(tmp_path):
    (tmp_path / "fakes.py").write_text(FAKE_CHECKS)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{BENCHMARKS}"}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert len(running(tmp_path)) >= 3  # supervisor, worker and the process of the third check
    process.kill()
    process.wait()
    assert [row["row"] for row in read_rows(tmp_path)] == ["one", "two"]
    while running(tmp_path):  # limited by the timeout of every test
        time.sleep(0.05)


def running(folder):
    """Return the processes that name a folder in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if any(os.fsencode(folder) in word for word in words):
            found.append(words)
    return found


@pytest.fixture
def run_fakes(tmp_path, monkeypatch):
    """Return a function that runs fake checks with their limits, and returns their rows."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    (tmp_path / "fakes.py").write_text(FAKE_CHECKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    from _first_light import supervisor
    from _first_light.checks import Check
    from _first_light.setup import Setup
    from _gpu.rows import Rows

    def run(*names, budget=1000.0):
        limits = [6.0 if name == "hangs" else 1000.0 for name in names]
        checks = [
            Check(number, name, f"fakes:{name}", limit, least=1)
            for number, (name, limit) in enumerate(zip(names, limits, strict=True), 1)
        ]
        rows = Rows(tmp_path / "first_light.jsonl", budget)
        supervisor.run_checks(checks, Setup("gpu", True, tmp_path), rows)
        return read_rows(tmp_path)

    return run


def test_a_check_that_raises_is_reported_and_the_others_run(run_fakes, capsys):
    first, raised, skipped, last = run_fakes("passes", "raises", "skips", "passes")
    assert raised["result"] == "failed"
    assert raised["error"].startswith("first: ValueError: one")
    assert raised["further_errors"][0].startswith("RuntimeError: no decoder")
    assert raised["figures"] == {"before": 1, "after": 2}
    assert (skipped["result"], skipped["reason"]) == ("skipped", "no reason")
    assert first["result"] == last["result"] == "ok"
    assert first["figures"]["process"] != last["figures"]["process"]  # an error may have broken its device
    table = capsys.readouterr().out.splitlines()[-4:]
    assert table[1].startswith("2 raises")
    assert table[1].endswith("(and 1 more)")
    assert table[2].endswith("no reason")


def test_a_check_over_its_limit_or_a_crash_is_reported(run_fakes):
    hung, crashed, last = run_fakes("hangs", "crashes", "passes")
    assert (hung["result"], hung["error"]) == ("failed", "stopped after 6 s, in the second part")
    assert (crashed["result"], crashed["error"]) == ("failed", "the process was killed by SIGABRT")
    assert hung["figures"] == crashed["figures"] == {"before": 1}
    assert last["result"] == "ok"


@pytest.mark.parametrize("how", ["crashes", "fails"])
def test_after_regions_fail_all_later_checks_decode_whole_images(run_fakes, capsys, how):
    rows = run_fakes("raises", "passes", f"{how}_on_regions", "passes", "crashes", "passes")
    assert [row.get("decode_regions", True) for row in rows] == [True, True, True, False, False, False]
    assert [rows[n]["figures"]["decode_regions"] for n in (1, 3, 5)] == [True, False, False]
    errors = {
        "crashes": "the process was killed by SIGABRT, in regions",
        "fails": "regions: RuntimeError: nv",
    }
    assert rows[2]["error"].startswith(errors[how])
    output = capsys.readouterr().out
    assert "\nRegions cannot be decoded, so all later checks decode whole images.\n" in output
    table = output.splitlines()[-6:]
    assert [line.endswith("[whole images]") for line in table] == [False] * 3 + [True] * 3


def test_no_check_starts_after_the_budget(run_fakes):
    (row,) = run_fakes("passes", budget=0.5)
    assert row["result"] == "skipped"
    assert row["reason"] == "only 0 s are left"


def test_a_failed_check_sets_the_exit_code(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    script = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--only", "2"]
    process = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    (row,) = read_rows(tmp_path)
    assert row["error"].startswith("RuntimeError: torch finds no GPU. Add --device cpu --small.")


@pytest.fixture
def modules(monkeypatch):
    """The modules of the checks by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("cuda_graphs", "decoding", "graph", "held_outputs", "imports", "report", "resume")
    names += ("setup", "workloads")
    return SimpleNamespace(**{name: importlib.import_module(f"_first_light.{name}") for name in names})


def test_whole_images_reach_every_workload_and_process(modules, tmp_path):
    setup = modules.setup.Setup("cpu", True, tmp_path, decode_regions=False)
    assert modules.setup.parse(setup.arguments()) == setup
    assert not modules.workloads.photograph_data(setup).decode_regions
    assert not modules.workloads.square_data(setup).decode_regions
    for workload in (
        modules.workloads.photograph_workload(setup, "resnet8", 2, 32),
        modules.workloads.square_workload(setup, "resnet8", 2),
    ):
        assert not workload.config.data.decode_regions


def test_regions_that_differ_fail_the_part(modules, monkeypatch, tmp_path):
    decoding, right = modules.decoding, modules.decoding.decode_windows

    def wrong(encoded, windows, data, gpu):
        return right(encoded, windows[:, ::-1] if data.decode_regions else windows, data, gpu)

    monkeypatch.setattr(decoding, "decode_windows", wrong)
    report = modules.report.Report()
    decoding.check(modules.setup.Setup("cpu", True, tmp_path), report)
    assert report.failures == ["regions on the CPU differ from the same parts of whole images"]
    assert report.state()["failed_parts"] == ["regions"]
    report = modules.report.Report()
    decoding.check(modules.setup.Setup("cpu", True, tmp_path, decode_regions=False), report)
    assert report.failures == []
    assert report.skipped["regions"] == "--whole-images"


def test_a_missing_package_is_named_with_the_module_that_needs_it(modules):
    report = modules.report.Report()
    missing = modules.imports.import_all(["json", "missing_package.module", "missing_package"], report)
    assert missing == {"missing_package": "missing_package.module"}
    assert report.failures == []


def test_other_images_shapes_and_labels_are_failures(modules):
    report = modules.report.Report()
    black, grey = (np.full((4, 5, 3), value, np.uint8) for value in (0, 3))
    images = {"4:4:4": b"", "4:2:0": b"", "grey": b""}
    modules.decoding.compare(images, [black] * 3, [grey, grey, grey[1:]], "GPU", report)
    assert report.failures == [
        "GPU: grey has the shape (3, 5, 3), not (4, 5, 3)",
        "GPU: 4:4:4 differs by 3.0 levels, more than 2.0",
    ]
    data = Data(dataset="folder", dir=Path(), std=(1, 1, 1))
    batch = StreamBatch(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
    other = StreamBatch(torch.full((2, 3, 4, 4), 4 / 255), torch.tensor([0, 2]))
    report = modules.report.Report()
    modules.graph.compare("plain", iter([(batch, batch), (batch, other)]), data, report)
    assert report.failures == [
        "plain: the images differ by 4.00 levels, more than 3.0",
        "plain: the labels or λ differ",
    ]


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_one_overwritten_image_of_a_held_batch_is_found(modules, value):
    held = [torch.zeros(8, 3, 4, 4), torch.arange(8)]
    overwritten = [held[0].index_fill(0, torch.tensor([5]), value), held[1]]
    found = modules.held_outputs.worst([held, held], [held, overwritten], torch.full((3, 1, 1), 10.0))
    assert found == {"levels": 10.0 if value == 1 else np.inf, "rest_equal": True}
    assert not modules.held_outputs.worst([held], [[held[0], held[1] + 1]], torch.ones(3, 1, 1))["rest_equal"]


def test_a_crash_is_reported_with_its_signal_and_the_figures_so_far(modules, monkeypatch, tmp_path):
    popen = subprocess.Popen
    write = 'echo \'{"figures": {"eager": 1}, "failures": []}\' > "$0"; kill -SEGV $$'
    monkeypatch.setattr(
        modules.cuda_graphs.subprocess, "Popen", lambda command: popen(["sh", "-c", write, command[4]])
    )
    report = modules.report.Report()
    setup = SimpleNamespace(gpu=None, folder=tmp_path, patience=1, arguments=lambda: [])
    for name in ("photographs", "squares"):
        monkeypatch.setattr(modules.cuda_graphs, name, lambda _: tmp_path)
    modules.cuda_graphs.check(setup, report)
    assert report.failures == ["captured: the process was killed by SIGSEGV"]
    assert report.figures == {"captured": {"eager": 1, "exit_code": -11}}


def test_resumed_run_is_compared_exactly_or_within_tolerances(modules, tmp_path):
    records = [{"stage": "representation", "epoch": 1, "step": step, "train/loss": 2.0} for step in (1, 2)]
    for name, loss, accuracy in (("whole", 2.0, 50.0), ("near", 2.1, 52.0), ("far", 2.5, 60.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"")
        last = {**records[1], "train/loss": loss, "val/top1": accuracy, "time/data_wait_pct": loss}
        lines = [json.dumps(record) + "\n" for record in (*records, last)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines) + '{"cut')

    def failures(name, exact):
        report = modules.report.Report()
        modules.resume.compare(tmp_path / "whole", tmp_path / name, exact, report)
        return report.failures

    assert failures("whole", exact=True) == failures("near", exact=False) == []
    assert failures("near", exact=True) == ["the resumed run is not bit-equal to the undisturbed run"]
    assert failures("far", exact=False) == ["a loss differs by 25.0%", "an accuracy differs by 10.0 points"]


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """The module of check 5, and the training loop of one phase."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from _first_light import synchronisation
    from _first_light.setup import Setup
    from _first_light.workloads import square_workload

    from fasticcl.bench.training import open_loop

    workload = square_workload(Setup("cpu", True, tmp_path), "resnet8", 4, "engine.compile=off")
    with open_loop(workload, "warmup") as opened:
        yield synchronisation, opened, workload.loader().batches("warmup")


class FakeDebugMode:
    """Raises or warns like torch on a GPU, according to the debug mode."""

    def __init__(self):
        self.mode, self.modes = "default", []

    def set(self, mode):
        self.mode = mode
        self.modes.append(mode)

    def wait_for_the_gpu(self):
        if self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        if self.mode == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)


def test_the_first_wait_of_a_step_is_found_and_then_all(loop, monkeypatch):
    synchronisation, opened, batches = loop
    debug = FakeDebugMode()

    def waiting(function):
        def call(*arguments, **options):
            debug.wait_for_the_gpu()
            return function(*arguments, **options)

        return call

    assert synchronisation.watched_steps(opened, batches, 4, debug.set) == {}
    assert debug.mode == "default"
    monkeypatch.setattr(opened.stage.optimizer, "step", waiting(opened.stage.optimizer.step))
    monkeypatch.setattr(opened.stats, "add", waiting(opened.stats.add))
    places = synchronisation.watched_steps(opened, batches, 4, debug.set)
    counts = {place.partition(":")[0]: count for place, count in places.items()}
    assert counts == {"fasticcl/engine/stages/stage.py": 4, "fasticcl/engine/loop.py": 3}
    assert debug.mode == "default"


def test_a_wait_of_the_loader_does_not_look_like_a_bad_image(loop, monkeypatch):
    synchronisation, opened, batches = loop
    debug = FakeDebugMode()
    import fasticcl.data.cache as cache

    original = cache.Cache.graph_input

    def waiting(self, rows):
        debug.wait_for_the_gpu()
        return original(self, rows)

    monkeypatch.setattr(cache.Cache, "graph_input", waiting)
    places = synchronisation.watched_steps(opened, batches, 4, debug.set)
    assert {place.partition(":")[0] for place in places} == {"fasticcl/data/dali/graph_inputs.py"}
