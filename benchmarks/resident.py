"""What a fresh process runs: one variant, whose resident maximum it prints in bytes."""

import gc
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cases import Problem, Work
from benchmarks.catalogue import CASES

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def main(arguments: Sequence[str]) -> None:
    """Build the variant, run it and print; arguments: case, variant, dtype, threads, batch, C, H, W."""
    name, variant, dtype, *numbers = arguments
    threads, batch, channels, height, width = map(int, numbers)
    torch.set_num_threads(threads)
    problem = Problem(torch.device("cpu"), getattr(torch, dtype), batch, (channels, height, width))
    (case,) = (case for case in CASES if case.name == name)
    print(resident_peak(case.build(variant, problem).work))


def resident_peak(work: Work) -> int:
    """Return by how many bytes one call of `work` raises this process's resident maximum.

    The first calls pay for what stays, such as code paged in and buffers that libraries keep. ru_maxrss would
    not do: a new program inherits it.
    """
    for _ in range(2):
        work()
    gc.collect()
    reset_maximum()
    before = read_status("VmRSS")
    work()
    return max(0, read_status("VmHWM") - before)


def reset_maximum() -> None:
    """Start the resident maximum anew; where that is not allowed, the warm-up's own peak stands for the call's."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def read_status(name: str) -> int:
    """Return a figure of this process in bytes, such as VmRSS, what is resident, or VmHWM, the most that was."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"benchmarks: {_STATUS} must have {name}, got none")
    return 1024 * int(found[1])


if __name__ == "__main__":
    main(sys.argv[1:])
