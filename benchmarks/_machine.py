"""What a benchmark ran on, for its results file."""

from fasticcl.bench.hardware import hardware as machine

__all__ = ["machine"]
