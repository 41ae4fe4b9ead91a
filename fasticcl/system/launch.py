"""Starting several ranks on this machine: what torchrun does, with what it takes already said."""

import logging
import os
import secrets
import signal
import sys
from typing import NoReturn

from fasticcl.errors import TrainingFailed
from fasticcl.system import rank_environment
from fasticcl.system.resources import available_cores

_TIME_TO_SAVE = "300"  # seconds that ranks have after a signal; torchrun gives 30, too few for slow disks
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # torchrun leaves out SIGUSR1, which would end it alone


def nproc_option() -> list[str]:
    """Return the words that start as many ranks as there are, if all are on this machine."""
    here = rank_environment.local_world_size()
    return ["--nproc", str(here)] if here == rank_environment.world_size() != 1 else []


def launch_ranks(count: int, arguments: list[str]) -> NoReturn:
    """Run ``fasticcl ARGUMENTS`` on ranks of this machine; leave with the exit code of the first that ends.

    It is `torchrun --standalone --nproc-per-node COUNT -m fasticcl ARGUMENTS` without torchrun's traceback.

    Args:
        count: how many ranks.
        arguments: words of the command line, of which ``--nproc`` is left out.

    Raises:
        TrainingFailed: a signal ended a rank.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // count)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the ranks say what there is to say
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _TIME_TO_SAVE)
    here = LaunchConfig(
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
        elastic_launch(here, sys.executable)("-m", "fasticcl", *_without_nproc(arguments))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise TrainingFailed(
                f"Rank {rank} was ended by {name}, and the others with it; go on from the last checkpoint "
                f"with --nproc {count} --resume."
            ) from None
        sys.exit(failure.exitcode)
    except SignalException as stopped:
        sys.exit(128 + (signal.SIGINT if stopped.sigval == signal.SIGINT else signal.SIGTERM))
    sys.exit(0)


def _without_nproc(arguments: list[str]) -> list[str]:
    words = iter(arguments)
    kept = []
    for word in words:
        if word == "--nproc":
            next(words, None)
        elif not word.startswith("--nproc="):
            kept.append(word)
    return kept
