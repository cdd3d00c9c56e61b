"""Where a call's time goes: the operators that take the most of it, by the profiler."""

from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import Work
from benchmarks.timing import find_repeats

_LEAST, _MOST = 5, 200  # calls; enough for about 0.1 s where that is between
_NAMED = 3


def costliest_operators(work: Work, device: torch.device) -> str:
    """Return the operators that take the most of a call's time and their shares, such as "mul 41 %, sum 30 %".

    The time is that of the operators themselves, without what they call, on the device where they run.
    """
    calls = min(_MOST, max(_LEAST, find_repeats(work, device)))
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiled:
        for _ in range(calls):
            work()
        if cuda:
            torch.cuda.synchronize(device)
    times: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        name = event.key.removeprefix("aten::").removeprefix("autograd::engine::evaluate_function: ")
        times[name] += event.self_device_time_total if cuda else event.self_cpu_time_total
    whole = sum(times.values())
    first = sorted(times.items(), key=lambda item: -item[1])[:_NAMED]
    return ", ".join(f"{name} {time / whole:.0%}" for name, time in first if time) if whole else ""
