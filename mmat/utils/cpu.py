"""Properties and settings of the CPU."""
import ctypes
import sys

import torch


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed memory for the next training step.

    By default it returns the pages of every large tensor to the system at once, and the next step pays a page fault for
    each of them. The setting holds for the rest of this process. The environment variables ``MALLOC_MMAP_THRESHOLD_``,
    ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_TOP_PAD_`` have the same effect.

    Returns:
        bool: True if the allocator accepted the setting; False if it is not glibc's.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, 2**31 - 1), mallopt(top_pad, 2**28)])


def has_fast_bf16() -> bool:
    """Whether this CPU computes in bf16 natively, on x86 with AVX-512. Emulation is ten times slower."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
