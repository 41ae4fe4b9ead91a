"""Wait policy of OpenMP threads: idle threads sleep, so they leave their core to other work."""

import os
import sys
from collections.abc import Mapping, MutableMapping

# libgomp, the OpenMP library of torch's wheels, lets an idle thread spin 300,000 times by default. On cores
# that decoding threads or other programs share, spinning takes the time that the others need. With the
# passive policy, idle threads of libgomp and of LLVM's library sleep at once. A spin count in between was not
# better, alone or beside other work (benchmarks/README.md).
_POLICY, _SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"


def let_idle_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the wait policy of OpenMP to passive, unless the user has set it or a spin count.

    OpenMP reads the variables when its library is loaded, so nothing is set if torch is already imported.

    Args:
        environment: environment variables of this process.
    """
    if _POLICY in environment or _SPINS in environment or "torch" in sys.modules:
        return
    environment[_POLICY] = "PASSIVE"


def describe_wait_policy(environment: Mapping[str, str] = os.environ) -> str:
    """Return the wait policy and spin count of OpenMP, for example ``PASSIVE`` or ``default, 5 spins``."""
    policy, spins = environment.get(_POLICY, "").upper(), environment.get(_SPINS)
    return f"{policy or 'default'}, {spins} spins" if spins else policy or "default"


def idle_threads_sleep(environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if an idle OpenMP thread sleeps at once. A spin count overrides the policy."""
    if spins := environment.get(_SPINS):
        return spins.strip() == "0"
    return environment.get(_POLICY, "").upper() == "PASSIVE"
