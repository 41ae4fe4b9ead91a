"""Long-tailed image classification with interpolative centroid contrastive learning, fed by NVIDIA DALI.

The functions here are the verbs of the command line, with the same names and defaults.
"""

from fasticcl.api.datasets import convert, show, verify
from fasticcl.api.looking import benchmark, doctor, report
from fasticcl.api.training import configure, evaluate, train
from fasticcl.errors import Stopped, TrainingFailed, UserError

__version__ = "0.1.0"
__all__ = [
    "Stopped",
    "TrainingFailed",
    "UserError",
    "benchmark",
    "configure",
    "convert",
    "doctor",
    "evaluate",
    "report",
    "show",
    "train",
    "verify",
]
