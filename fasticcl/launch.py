"""Starting several ranks on this machine: torchrun, with what it takes already said."""

import os
import sys
from typing import NoReturn

from fasticcl.data.cores import available_cores


def ranks_here() -> list[str]:
    """Return the words that start as many ranks as there are, if all are on this machine."""
    here, all_ranks = (os.environ.get(name, "1") for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return ["--nproc", here] if here == all_ranks != "1" else []


def start_ranks(count: int, arguments: list[str]) -> NoReturn:
    """Become ``torchrun --standalone --nproc-per-node COUNT -m fasticcl ARGUMENTS``.

    Args:
        count: how many ranks.
        arguments: words of the command line, of which ``--nproc`` is left out.
    """
    words = iter(arguments)
    kept = []
    for word in words:
        if word == "--nproc":
            next(words, None)
        elif not word.startswith("--nproc="):
            kept.append(word)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // count)))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "fasticcl", *kept])
