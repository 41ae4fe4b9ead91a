"""``fasticcl bench`` with tiny sizes: every benchmark, the command line and its errors."""

import pytest

import fasticcl
from fasticcl.bench import suite
from fasticcl.bench.measure import Measurement
from fasticcl.bench.workload import open_workload
from fasticcl.errors import UserError

PHASES = ("warmup", "interpolative", "rebalance")


def test_all_runs_every_benchmark_in_every_phase(full_result):
    expected = {f"{part} {phase}" for part in ("plan", "loader", "step") for phase in PHASES}
    expected |= {"step interpolative, bfloat16", "train interpolative"}
    expected |= {"convert bytes kept", "convert short side 256"}
    assert set(full_result.measured) == expected
    assert any(note.startswith("bfloat16: the step with --set") for note in full_result.notes)
    for measurement in full_result.measured.values():
        assert measurement.unit == "images/s"
        assert len(measurement.runs) == 2
        assert 0 < measurement.min <= measurement.median <= measurement.max


class FakeTiming:
    """Measures nothing."""

    seconds = 1.0

    def show_status(self, _):
        pass

    def __init__(self):
        self.min_batches = {}

    def __call__(self, tasks, warmup, _=None, min_batches=None):
        assert tasks.keys() == warmup.keys()
        self.min_batches |= {name: count for name, count in (min_batches or {}).items() if name in tasks}
        return {name: Measurement((10.0,), "images/s") for name in tasks}


PLAN = {f"plan {phase}": "256 images" for phase in PHASES} | {"plan interpolative": "256 pairs"}
LOADER = {f"loader {phase}": "224 px, 256 images" for phase in PHASES}
LOADER["loader interpolative"] = "224 px, 256 pairs"
STEP = {f"step {phase}": "224 px, 4 images, resnet50" for phase in PHASES}
TRAIN = {f"{name} interpolative": "224 px, 4 pairs, resnet50" for name in ("step", "train")}
SMALL_LOADER = "224 px, 4 pairs"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("plan", {"plan interpolative": "256 pairs"}),
        ("loader", {"loader interpolative": "224 px, 256 pairs"}),
        ("step", {"step interpolative": TRAIN["step interpolative"]}),
        ("train", TRAIN | {"loader interpolative": SMALL_LOADER}),
        ("all", PLAN | LOADER | STEP | TRAIN | {"loader interpolative, small batch": SMALL_LOADER}),
    ],
)
def test_only_steps_and_the_loader_compared_with_them_have_small_batches_on_a_cpu(
    photo_shards, tmp_path, monkeypatch, what, expected
):
    workload = open_workload(tmp_path, "folder", data=photo_shards, device="cpu")
    monkeypatch.setattr(
        "fasticcl.bench.training.measure_parts", lambda *_: {"plan": Measurement((1.0,), "ms/step")}
    )
    timing = FakeTiming()
    result = suite.measure_training(what, workload, "interpolative", timing, 2)
    is_loaded = any(name.startswith("loader") for name in result.measured)
    assert set(timing.min_batches.values()) == ({3} if is_loaded else set())
    assert {name: each.sizes.describe() for name, each in result.measured.items()} == expected
    assert [each.sizes.describe() for each in result.parts.values()] == ["224 px, 4 pairs, resnet50"] * len(
        result.parts
    )
    assert (result.settings["batch_size"], result.settings["image_size"]) == (256, 224)
    is_reduced = what not in ("plan", "loader")
    assert any("is reduced from 256 to 4" in note for note in result.notes) == is_reduced


@pytest.mark.parametrize(("what", "is_decoded"), [("plan", False), ("loader", True)])
def test_synthetic_images_are_described_only_where_they_are_decoded(tiny, what, is_decoded):
    notes = fasticcl.benchmark(what, "demo", **tiny).notes
    assert any(note.startswith("images: ") for note in notes) == is_decoded


def test_a_benchmark_leaves_no_files_behind(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fasticcl.benchmark("train", **tiny)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"what": "speed"}, {"what": "plan", "repeats": 0}, {"what": "plan", "seconds": -1.0}], ids=str
)
def test_the_python_function_rejects_bad_options(options):
    with pytest.raises(UserError):
        suite.benchmark(**options)


BBN = {
    "method.first_stage": "bbn",
    "method.uniform_weight": 0,
    "method.centroid_contrastive": False,
    "method.warmup_epochs": 0,
    "data.mixing": "none",
}
M2M = {"method.first_stage": "m2m", "data.resample_start": 0.5}


@pytest.mark.parametrize(
    ("settings", "phase", "message"),
    [
        ({}, "translation", "method.first_stage=iccl has no phase translation. Choose one of: warmup, int"),
        (BBN, "warmup", "method.first_stage=bbn has no phase warmup. Choose one of: interpolative, rebal"),
        (M2M, "translation", "Add --data DIR to measure it."),
    ],
    ids=["iccl", "bbn", "m2m"],
)
def test_phase_that_the_method_does_not_have_is_refused(tiny, settings, phase, message):
    with pytest.raises(UserError, match=message):
        fasticcl.benchmark("step", "demo", phase=phase, set=settings, **tiny)


@pytest.mark.parametrize(
    ("settings", "absent"), [({}, "translation"), (BBN, "warmup"), (M2M, None)], ids=["iccl", "bbn", "m2m"]
)
def test_all_leaves_out_phases_that_the_method_does_not_have(
    tiny_shards, tmp_path, monkeypatch, settings, absent
):
    assignments = [f"{name}={value}".lower() for name, value in settings.items()]
    workload = open_workload(tmp_path, "demo", data=tiny_shards, device="cpu", assignments=assignments)
    monkeypatch.setattr("fasticcl.bench.training.measure_parts", lambda *_: {})
    measured = suite.measure_training("all", workload, "interpolative", FakeTiming(), 2).measured
    assert not any(name.endswith(f" {absent}") for name in measured)
    assert ("step translation" in measured) == (settings is M2M)
