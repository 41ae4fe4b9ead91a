"""Long-tailed image classification with interpolative centroid contrastive learning, fed by NVIDIA DALI.

The functions here are the verbs of the command line, with the same names and defaults.
"""

# Importing a subpackage binds its name here. Six of them are called as their verb is: importing them first
# lets the functions below keep the names, whatever is imported later.
from fasticcl import convert, doctor, export, predict, report, sweep  # isort: split

from fasticcl.api.datasets import convert, show, verify
from fasticcl.api.diagnostics import benchmark, doctor, report
from fasticcl.api.models import export, predict
from fasticcl.api.training import evaluate, rebalance, sweep, train
from fasticcl.errors import ExportFailed, Stopped, TrainingFailed, UserError
from fasticcl.resolve import configure
from fasticcl.version import __version__

__all__ = [
    "ExportFailed",
    "Stopped",
    "TrainingFailed",
    "UserError",
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
    "show",
    "sweep",
    "train",
    "verify",
]
