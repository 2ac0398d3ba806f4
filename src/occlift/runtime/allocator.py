"""The C library's allocator, told to keep what tensors free.

glibc gives the top of its heap back to the system as soon as some megabytes of it are free. A training step asks for
the same tensors again and again: with the demo's network the system finds and clears 70,000 pages in every step
(`benchmarks/allocator.py`). Blocks of more than 64 MB are mapped and unmapped one by one as before: kept in the heap,
they would leave gaps as large as they are.
"""

from __future__ import annotations

import ctypes
from typing import Final

# <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

# The demo's largest tensors have 46 MB.
_LARGEST_BLOCK_BYTES: Final = 64 << 20
_KEPT_BYTES: Final = 1 << 30


def keep_freed_memory() -> None:
    """From now on this process keeps up to 1 GiB of freed memory for its next tensors. Without glibc nothing happens.

    What is computed stays the same, to the last bit. Resident memory falls later than it would.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
