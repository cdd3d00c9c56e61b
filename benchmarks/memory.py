"""The most memory that one call holds above what was live before it."""

import os
import subprocess
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import Job, Work

# Large blocks come from the system and go back to it, so that the resident size follows what is live.
PLAIN_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure_peak(work: Work, device: torch.device) -> int:
    """Return the peak of one call in bytes, its output included.

    On CUDA it is the allocator's own peak; on the CPU the peak of the running sum of the profiler's memory
    events.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results = profiled.profiler.kineto_results
    events = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event[0])
    live = peak = 0
    for _, change in events:
        live += change
        peak = max(peak, live)
    return peak


def measure_resident(job: Job, variant: str) -> int | None:
    """Return by how many bytes one call raises the resident maximum of a fresh process.

    None where that cannot be had: off Linux, off the CPU, or where the process fails.
    """
    if sys.platform != "linux" or job.problem.device.type != "cpu":
        return None
    problem = job.problem
    dtype = str(problem.dtype).removeprefix("torch.")
    numbers = map(str, (torch.get_num_threads(), problem.batch, *problem.shape))
    command = [sys.executable, "-m", "benchmarks.resident", job.case.name, variant, dtype, *numbers]
    child = subprocess.run(command, env=os.environ | PLAIN_MALLOC, capture_output=True, text=True, check=False)
    return int(child.stdout) if child.returncode == 0 else None
