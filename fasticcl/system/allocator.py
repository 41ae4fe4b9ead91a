"""The C library's allocator, told what a loader does all day."""

import ctypes

# From malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let the process keep the memory of freed batches for the next; return whether the allocator agreed.

    A batch on the CPU is some tens of megabytes, allocated and freed at every step. glibc hands such
    pieces back to the kernel at once and gets them again page by page. Call this before the first
    loader is made: threads that already allocated keep their own arenas. It holds for the whole process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _PAD))
    agreed = [mallopt(name, value) for name, value in settings]  # ask for each, whatever the others say
    return all(agreed)
