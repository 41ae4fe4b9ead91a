"""Wait policy of OpenMP threads: idle threads sleep, so they leave their core to other work."""

import os
from collections.abc import MutableMapping

# libgomp, the OpenMP library of torch's wheels, lets an idle thread spin 300,000 times by default, which is
# longer than most gaps between two parallel regions of a training step. On cores that decoding threads or
# other programs share, spinning takes the time that the others need. LLVM's and Intel's libraries sleep at
# once if the policy is passive.
_POLICY, _SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
_SPIN_COUNT = "1000"


def let_idle_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the wait policy of OpenMP to passive, unless the user has set it.

    OpenMP reads the variables when its library is loaded, so this has no effect on a process that has already
    imported torch. Processes that it starts inherit them.

    Args:
        environment: environment variables of this process.
    """
    if _POLICY in environment or _SPINS in environment:
        return
    environment[_POLICY] = "PASSIVE"
    environment[_SPINS] = _SPIN_COUNT
