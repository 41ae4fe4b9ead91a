"""``fasticcl bench`` with tiny sizes: every benchmark, the command line and its errors."""

import pytest

import fasticcl
from fasticcl.bench import suite
from fasticcl.data.plan import PHASES
from fasticcl.errors import UserError


def test_all_runs_every_benchmark_in_every_phase(full_result):
    expected = {f"{part} {phase}" for part in ("plan", "loader", "step") for phase in PHASES}
    expected |= {"train interpolative", "convert bytes kept", "convert short side 256"}
    assert set(full_result.measured) == expected
    for measurement in full_result.measured.values():
        assert measurement.unit == "images/s"
        assert len(measurement.runs) == 2
        assert 0 < measurement.min <= measurement.median <= measurement.max


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
