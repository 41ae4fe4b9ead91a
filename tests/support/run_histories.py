"""Run histories that were not read from a run folder."""

import fasticcl
from fasticcl.report.run_history import RunHistory


def run_history(project, name, top1, few=50.0, **options):
    """Return the history of one epoch with the given accuracies. The options are those of `configure`."""
    settings = {"rebalance.epochs": 0, **options.pop("set", {})}
    config = fasticcl.configure("demo", **{"data": project, "epochs": 1, "set": settings, **options})
    record = {
        "stage": "representation",
        "phase": "warmup",
        "epoch": 1,
        "val/top1": top1,
        "val/many": None,
        "val/medium": 1.0,
        "val/few": few,
    }
    return RunHistory(project / name, config, [record])
