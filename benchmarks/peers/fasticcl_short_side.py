"""fasticcl's Loader on shards converted with ``--short-side 256``."""

from functools import partial

import fasticcl_loader
from _peer import main

variants = partial(fasticcl_loader.variants, short_side=256)

if __name__ == "__main__":
    main(variants, ["torch", "nvidia-dali-cuda120", "numpy"])
