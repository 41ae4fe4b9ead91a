"""Long-tailed image classification with interpolative centroid contrastive learning, based on NVIDIA DALI.

The functions correspond to the verbs of the command line and have the same defaults. `evaluate` is the verb
``eval``, and `benchmark` is ``bench``. Result types and the data loader are imported on first use, because
most of them import torch or DALI.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fasticcl.system.wait_policy import let_idle_threads_sleep

# Before the first import of torch, which reads the environment variables of OpenMP.
let_idle_threads_sleep()

# Importing a subpackage binds its name here. These subpackages share their names with functions, so they are
# imported first and the functions below replace them.
from fasticcl import convert, doctor, export, predict, report, reproduce, sweep  # isort: split

from fasticcl.api.datasets import convert, show, verify
from fasticcl.api.diagnostics import benchmark, doctor, report
from fasticcl.api.models import export, predict
from fasticcl.api.reproduction import reproduce
from fasticcl.api.training import evaluate, rebalance, sweep, train
from fasticcl.config import Config
from fasticcl.errors import ExportFailed, FasticclError, Stopped, TrainingFailed, UserError
from fasticcl.resolve import configure
from fasticcl.version import __version__

if TYPE_CHECKING:
    from fasticcl.bench.result import Result as BenchmarkResult
    from fasticcl.data.loader import Loader
    from fasticcl.data.plan import Plan
    from fasticcl.doctor.facts import Finding
    from fasticcl.engine.results import Report
    from fasticcl.export.exporter import ExportResult
    from fasticcl.predict.predictions import Prediction
    from fasticcl.reproduce.reproduction import Reproduction
    from fasticcl.shards.manifest import Manifest
    from fasticcl.shards.reader import Shards
    from fasticcl.shards.summary import Summary
    from fasticcl.shards.verify import VerificationResult
    from fasticcl.sweep.result import SweepResult

_LAZY = {
    "BenchmarkResult": "bench.result.Result",
    "ExportResult": "export.exporter.ExportResult",
    "Finding": "doctor.facts.Finding",
    "Loader": "data.loader.Loader",
    "Manifest": "shards.manifest.Manifest",
    "Plan": "data.plan.Plan",
    "Prediction": "predict.predictions.Prediction",
    "Report": "engine.results.Report",
    "Reproduction": "reproduce.reproduction.Reproduction",
    "Shards": "shards.reader.Shards",
    "Summary": "shards.summary.Summary",
    "SweepResult": "sweep.result.SweepResult",
    "VerificationResult": "shards.verify.VerificationResult",
}

__all__ = [
    "BenchmarkResult",
    "Config",
    "ExportFailed",
    "ExportResult",
    "FasticclError",
    "Finding",
    "Loader",
    "Manifest",
    "Plan",
    "Prediction",
    "Report",
    "Reproduction",
    "Shards",
    "Stopped",
    "Summary",
    "SweepResult",
    "TrainingFailed",
    "UserError",
    "VerificationResult",
    "__version__",
    "benchmark",
    "configure",
    "convert",
    "doctor",
    "evaluate",
    "export",
    "predict",
    "rebalance",
    "report",
    "reproduce",
    "show",
    "sweep",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].rpartition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
