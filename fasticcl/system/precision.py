"""Numeric precision of operators whose inputs and outputs are float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """Compute float32 convolutions in float32 on a GPU, where cuDNN otherwise uses TF32 (10-bit mantissa).

    Code that runs inside must not read the older flag ``torch.backends.cudnn.allow_tf32``. torch raises an
    error if it differs from the setting of an operator.
    """
    cudnn: Any = torch.backends.cudnn  # its type stubs lack `conv`
    convolutions = cudnn.conv
    previous = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = previous
