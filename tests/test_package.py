"""The package as a library: lazy imports, result types, and names that subpackages must not shadow."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import warnings

import pytest

import fasticcl

VERBS = ("convert", "doctor", "export", "predict", "report", "reproduce", "sweep")


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


COLLECT = """
import sys, pytest
for package in ("simplejpeg", "sklearn"):
    sys.modules[package] = None
sys.exit(pytest.main(["tests/gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]))
"""


def test_gpu_tests_are_collected_without_the_packages_of_the_conversion():
    done = subprocess.run([sys.executable, "-c", COLLECT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "test_parity.py" in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "nvidia-dali-cuda120 is no longer shipped with CUDA runtime. You need to install it separately.",
        "nvidia-dali-cuda130 is no longer shipped with CUDA runtime. You need to install it separately.",
        "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled.",
    ],
)
def test_advice_of_libraries_on_a_gpu_fails_no_test(text):
    """The texts are from nvidia/dali/backend.py and, in torch 2.11, torch/_inductor/compile_fx.py."""
    warnings.warn(text, Warning if "dali" in text else UserWarning, stacklevel=1)
