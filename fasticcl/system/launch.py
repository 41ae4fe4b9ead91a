"""Launch ranks on this machine: ``torchrun --standalone`` with its options preset."""

import logging
import os
import secrets
import signal
import sys
from typing import NoReturn

from fasticcl.errors import TrainingFailed
from fasticcl.system import rank_environment
from fasticcl.system.resources import available_cores

_SHUTDOWN_TIMEOUT = "300"  # seconds after a signal. The default of 30 is too short for slow disks.
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # torchrun does not forward SIGUSR1 by default


def nproc_option() -> list[str]:
    """Return the ``--nproc`` option of this launch, or [] for one rank or several machines."""
    ranks = rank_environment.local_world_size()
    return ["--nproc", str(ranks)] if ranks == rank_environment.world_size() != 1 else []


def launch_ranks(count: int, arguments: list[str]) -> NoReturn:
    """Run ``fasticcl ARGUMENTS`` on several ranks of this machine and exit.

    This equals ``torchrun --standalone --nproc-per-node COUNT -m fasticcl ARGUMENTS`` without torchrun's
    traceback. The exit code is that of the first rank that fails, or 0.

    Args:
        count: number of ranks.
        arguments: command-line arguments. ``--nproc`` is removed.

    Raises:
        TrainingFailed: a rank was killed by a signal.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // count)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the ranks print their own errors
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN_TIMEOUT)
    config = LaunchConfig(
        run_id=secrets.token_hex(8),
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle=_SIGNALS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "fasticcl", *_without_nproc(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise TrainingFailed(
                f"Rank {rank} was killed by {name}, so all ranks were stopped. "
                f"Continue from the last checkpoint with --nproc {count} --resume."
            ) from None
        sys.exit(failure.exitcode)
    except SignalException as error:
        sys.exit(128 + (signal.SIGINT if error.sigval == signal.SIGINT else signal.SIGTERM))
    sys.exit(0)


def _without_nproc(arguments: list[str]) -> list[str]:
    words = iter(arguments)
    remaining = []
    for word in words:
        if word == "--nproc":
            next(words, None)
        elif not word.startswith("--nproc="):
            remaining.append(word)
    return remaining
