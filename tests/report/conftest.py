"""A finished run with its report and a comparison of two runs."""

import csv
import shutil

import pytest

import fasticcl
from fasticcl.report.class_analysis import ClassAnalysis
from fasticcl.report.run_history import read_history
from tests.support.report_files import read_json
from tests.support.small_runs import train_tiny


@pytest.fixture(scope="session")
def finished_run(tiny_shards, tmp_path_factory):
    """A finished run with its report, which tests must not modify."""
    run = train_tiny(tiny_shards, tmp_path_factory.mktemp("reported"), epochs=8).run
    fasticcl.report(run)
    return run


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def report_html(finished_run):
    return (finished_run / "report.html").read_text()


@pytest.fixture(scope="session")
def comparison_html(finished_run, tiny_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    other = train_tiny(tiny_shards, folder, epochs=8, seed=1, name="a-run-with-a-longer-name").run
    return fasticcl.report(finished_run, other, output=folder / "both").read_text()


@pytest.fixture(scope="session")
def history(finished_run):
    return read_history(finished_run)


@pytest.fixture(scope="session")
def analysis(finished_run):
    return ClassAnalysis.model_validate(read_json(finished_run)["details"])


@pytest.fixture(scope="session")
def results(finished_run):
    """The rows of results.csv."""
    return [*csv.DictReader((finished_run / "results.csv").read_text().splitlines())]
