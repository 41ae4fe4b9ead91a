"""Command line as ``python -m fasticcl``, for torchrun and if scripts are not on the PATH."""

from fasticcl.cli.main import main

main()
