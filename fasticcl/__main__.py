"""``python -m fasticcl`` is the command line, for torchrun and for machines without scripts on the path."""

from fasticcl.cli.main import main

main()
