"""Tune glibc malloc to keep freed batch buffers in the process."""

import ctypes

# From malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_PAD_BYTES = 64 * 2**20


def keep_freed_memory(device: str | None = None) -> bool:
    """Keep the memory of freed batches in the process for reuse. Return True if the allocator accepts this.

    Each step allocates and frees a CPU batch of tens of megabytes. By default, glibc returns such blocks to
    the kernel immediately and faults them in again page by page. Call this before the first loader is
    created, because threads that have already allocated memory keep their arenas. It affects the whole
    process.

    With a GPU it does nothing, because batches are then in device memory, and dozens of decoding threads
    would compete for one arena.

    Args:
        device: auto, cpu or gpu, or None for auto.
    """
    import torch  # seconds, which commands without training do not need

    if device != "cpu" and torch.cuda.is_available():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return False
    options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _PAD_BYTES))
    accepted = [mallopt(option, value) for option, value in options]  # set all of them even if one fails
    return all(accepted)
