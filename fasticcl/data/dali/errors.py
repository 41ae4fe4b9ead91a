"""Kinds of DALI errors, recognised by their text.

DALI raises the same exceptions for a damaged image, exhausted memory and a failed GPU. The first lines of the
message are also the same. They name the operator and its place in the source, and the reason follows.
"""

import re
from typing import Literal

from fasticcl.errors import TrainingFailed

DALI_ERRORS = (RuntimeError, MemoryError)
"""Exceptions of a pipeline. DALI raises MemoryError if an allocation outside of its operators fails."""

ErrorKind = Literal["image", "memory", "device", "library", "other"]
"""Cause of an error.

- image: an encoded image cannot be decoded.
- memory: host, pinned or GPU memory is exhausted.
- device: the GPU or its driver failed.
- library: a library such as nvImageCodec or nvJPEG cannot be loaded.
- other: any other cause.
"""

_MAX_LENGTH = 300  # maximum number of characters of a reason

# The first pattern that matches determines the kind. An exhausted GPU is also a CUDA error, and a missing
# driver is also a library that cannot be loaded, so the order matters.
_PATTERNS: tuple[tuple[ErrorKind, str], ...] = (
    ("memory", r"bad_alloc|out of memory|MemoryAllocation|MemoryError|alloc\w*[ _]fail|not enough memory"),
    ("memory", r"(can't|cannot|could not|unable to|failed to) allocate"),
    ("device", r"libcuda|libnvidia|(CUDA|GPU) driver|driver version|CUDA is not available|no CUDA-capable"),
    ("library", r"dlopen|failed to load|cannot open shared object|requires nvImageCodec|not registered"),
    ("library", r"(could not create|no) (\w+ )?decoder"),
    ("device", r"CUDA\w* (\w+ )*(error|failure)|cudaError|CUDA_ERROR|nvml|NVJPEG_STATUS_(EXECUTION|ARCH)"),
    ("image", r"failed to decode|cropping window .* not valid|NVJPEG_STATUS_\w*(JPEG|BITSTREAM)"),
)
_END = r"\n?Current pipeline object is no longer valid|\nC\+\+ context:|\nStacktrace \(|\n\s*At:\n"
_PREFIX = (
    r"Critical error (in|when building) pipeline:|DLTensorPythonFunction error:|\[/opt/dali/[^\]]*\]|"
    r"Error in (worker )?thread( \d+)?:"
)
_STATUS = re.compile(r"nvImageCodec failure: '#(\d+)'")
# Values of nvimgcodecStatus_t in nvimgcodec.h. A truncated PNG causes 17, an internal error.
_STATUS_KINDS: dict[int, ErrorKind] = {
    **dict.fromkeys((3, 4, 13, 14, 17, 19), "image"),
    **dict.fromkeys((5, 15), "memory"),
    **dict.fromkeys((7, 16, 20, 21), "device"),
    10: "library",
}
_SENTENCES: dict[ErrorKind, tuple[str, str]] = {
    "image": (
        "DALI cannot decode a batch",
        "Check the shards with `fasticcl verify DIR --decode` and the decoder with `fasticcl doctor`.",
    ),
    "memory": (
        "Out of memory in DALI",
        "Use a smaller --batch-size, fewer --workers or --set data.hw_decoder_load=0.",
    ),
    "device": ("The GPU or its driver failed in DALI", "Run `fasticcl doctor` to check both."),
    "library": ("DALI cannot use one of its libraries", "Run `fasticcl doctor` to check the installation."),
    "other": ("DALI cannot compute a batch", "Run `fasticcl doctor`, and include this text in an issue."),
}


class BatchFailed(TrainingFailed):
    """DALI cannot compute a batch, perhaps because one of its images is damaged.

    Attributes:
        reason: DALI's text.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def explain(error: RuntimeError | MemoryError) -> TrainingFailed:
    """Return an exception that states in one sentence why DALI failed, and what to do.

    It is a `BatchFailed` unless memory, the GPU or a library is the cause.
    """
    reason = error_reason(error)
    kind = "memory" if isinstance(error, MemoryError) else error_kind(reason)
    problem, advice = _SENTENCES[kind]
    message = f"{problem}: {reason.rstrip('.')}. {advice}"
    return BatchFailed(message, reason) if kind in ("image", "other") else TrainingFailed(message)


def error_reason(error: Exception) -> str:
    """Return DALI's text on one line, without the place in the source and the Python and C++ stacks."""
    reason = re.split(r"\bencountered:\s*\n", str(error))[-1]
    reason = re.split(_END, reason)[0]
    reason = " ".join(re.sub(_PREFIX, "", reason).split()).rstrip(" :") or type(error).__name__
    return reason if len(reason) <= _MAX_LENGTH else f"{reason[:_MAX_LENGTH]}…"


def error_kind(reason: str) -> ErrorKind:
    """Return the cause of an error from DALI's text."""
    if status := _STATUS.search(reason):
        return _STATUS_KINDS.get(int(status[1]), "other")
    return next((kind for kind, pattern in _PATTERNS if re.search(pattern, reason, re.IGNORECASE)), "other")
