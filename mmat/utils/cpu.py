"""Memory on the CPU."""
import ctypes
import sys


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what a training step frees, instead of returning it and asking for it again.

    The default gives every large tensor's pages back to the system at once; the next step then pays for each page
    anew. Acts on this process from now on; the environment variables ``MALLOC_MMAP_THRESHOLD_``,
    ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_TOP_PAD_`` do the same from outside.

    Returns:
        bool: Whether the allocator took it; False where it is not glibc's.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, 2**31 - 1), mallopt(top_pad, 2**28)])
