"""Check 1: imports, versions, GPU, cores and memory."""

import importlib
import os
import pkgutil
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from _first_light.report import Report, describe
from _first_light.setup import Setup

ROOMS = ("system", "data", "method", "engine", "report")
MODULES = ("fasticcl.api.training", "fasticcl.cli.main", "fasticcl.bench.training")
DEMO_MODULES = ("fasticcl.convert.conversion", "fasticcl.convert.layouts.digits", "sklearn")
PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "nvidia-dali-cuda120",
    "nvidia-nvimgcodec-cu12",
    "nvidia-nvjpeg-cu12",
    "numpy",
    "pillow",
    "isal",
    "pydantic",
    "safetensors",
    "simplejpeg",
    "scikit-learn",
)


def check(setup: Setup, report: Report) -> None:
    """Import what training needs, and describe the machine. A missing package is named."""
    report.add("python", platform.python_version())
    modules = [*MODULES, *training_modules(report)]
    missing = import_all(modules, report)
    report.add("modules", len(modules))
    needed = ", ".join(f"{package} (for {module})" for package, module in missing.items())
    report.expect(not missing, f"missing packages: {needed}")
    demo_missing = import_all(DEMO_MODULES, report)
    report.add("missing_for_the_demo_only", sorted({*demo_missing} - {*missing}))
    report.add("versions", {name: found for name in PACKAGES if (found := installed_version(name))})
    report.add("c_compiler", next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None))
    if missing:
        return
    from fasticcl.system.hardware import hardware
    from fasticcl.system.resources import available_cores, memory_left

    report.add("hardware", hardware())
    memory = memory_left()
    report.add("cores", {"available": available_cores(), "machine": os.cpu_count()})
    report.add("memory_limit_gib", None if memory is None else round(memory / 2**30, 1))
    if setup.gpu is None:
        report.skip("gpu", "the checks run on the CPU")
    else:
        describe_gpu(setup.gpu, report)


def training_modules(report: Report) -> Iterator[str]:
    """Yield the names of all modules in the rooms that training uses."""
    with report.part("fasticcl"):
        package = importlib.import_module("fasticcl")
        for room in ROOMS:
            paths = [f"{path}/{room}" for path in package.__path__]
            yield from (found.name for found in pkgutil.walk_packages(paths, f"fasticcl.{room}."))


def import_all(modules: tuple[str, ...] | list[str], report: Report) -> dict[str, str]:
    """Import modules and return the missing packages with the module that needs them."""
    missing: dict[str, str] = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing.setdefault((error.name or str(error)).partition(".")[0], name)
        except Exception as error:  # a shared library may be missing
            report.expect(False, f"import {name}: {describe(error)}")
    return missing


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_gpu(gpu: int, report: Report) -> None:
    """Report the GPU, and compute a sum on it."""
    import torch

    report.expect(torch.cuda.is_available(), "torch finds no GPU. Add --device cpu --small.")
    if not torch.cuda.is_available():
        return
    properties = torch.cuda.get_device_properties(gpu)
    figures: dict[str, Any] = {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "architectures": torch.cuda.get_arch_list(),
    }
    report.add("gpu", figures)
    report.note = f"{figures['name']}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    report.expect(torch.ones(2, device=f"cuda:{gpu}").sum().item() == 2, "the GPU computes 1 + 1 wrongly")
