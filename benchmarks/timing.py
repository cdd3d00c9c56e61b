"""The clock: how long one call takes, waiting for the device."""

import ctypes
import sys
import time
from math import ceil

import torch

from benchmarks.cases import Work

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
LEAST_SECONDS = 0.1  # a timing repeats its call until it takes about so long


def keep_memory() -> bool:
    """Let the C library keep the memory that is freed, as the allocators that servers run do; False where it cannot.

    Otherwise every map of over 32 MiB is given back and paged in anew at each call, which takes several times
    as long as computing it, and what is compared is the kernel's paging. It holds for all variants alike.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, 2**30) == 1 for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))


def find_repeats(work: Work, device: torch.device) -> int:
    """Return how often a timing must repeat this call to take `LEAST_SECONDS`."""
    return max(1, ceil(LEAST_SECONDS / clock(work, 1, device)))


def clock(work: Work, repeats: int, device: torch.device) -> float:
    """Return the seconds of one call, averaged over `repeats`."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _synchronize(device)
    return (time.perf_counter() - start) / repeats


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
