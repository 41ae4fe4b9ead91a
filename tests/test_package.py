"""The package as a library: lazy imports, result types, and names that subpackages must not shadow."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import fasticcl

VERBS = ("convert", "doctor", "export", "predict", "report", "sweep")


def test_verbs_stay_functions_after_importing_all_modules():
    for module in pkgutil.walk_packages(fasticcl.__path__, "fasticcl."):
        if module.name != "fasticcl.__main__":
            importlib.import_module(module.name)
    for name in VERBS:
        assert inspect.isfunction(getattr(fasticcl, name)), name


@pytest.mark.parametrize("program", ["import fasticcl", "from fasticcl.cli.main import app; app(['--help'])"])
def test_import_and_help_load_no_heavy_package(program):
    script = f"""
import sys
try:
    exec({program!r})
except SystemExit:
    pass
print(sorted({{"torch", "nvidia.dali", "matplotlib"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_all_public_names_exist_and_are_listed():
    assert set(fasticcl.__all__) <= set(dir(fasticcl))
    for name in fasticcl.__all__:
        assert getattr(fasticcl, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = fasticcl.Trainer


def test_errors_have_one_base_class():
    for error in (fasticcl.UserError, fasticcl.TrainingFailed, fasticcl.ExportFailed, fasticcl.Stopped):
        assert issubclass(error, fasticcl.FasticclError)
