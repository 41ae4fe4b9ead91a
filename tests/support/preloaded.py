"""The modules that the fork server imports before it forks.

Garbage collections in the forked processes skip the objects of these modules, because `Loader` starts one.
"""

import gc
import importlib

for name in (
    "fasticcl.cli.main",  # before torch, because the package sets the wait policy of OpenMP threads
    "fasticcl.engine.trainer",
    "tests.support.small_runs",
    "torch._dynamo",  # imported by the first step of an optimizer
):
    importlib.import_module(name)
gc.freeze()
