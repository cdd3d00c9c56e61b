"""Where a run computes, and on what."""

import os
import platform

import torch

from reference_pipelines.config.sections import Device
from reference_pipelines.errors import UserError


def pick_device(wanted: Device, local_rank: int = 0) -> torch.device:
    """Return the device; "auto" takes CUDA where there is one, and "mps", which is Apple's, only where it is asked for.

    Args:
        wanted: what the config asks for.
        local_rank: this process's number on its machine; each process has a CUDA device to itself.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for and torch sees no CUDA device; use --device auto or cpu")
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("device: mps was asked for and torch sees no Apple GPU; use --device auto or cpu")
        return torch.device("mps")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"device: each process must have a CUDA device of its own, and process {local_rank + 1} of this machine "
            f"finds {torch.cuda.device_count()}; start as many processes as devices, or use --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def describe_hardware(device: torch.device) -> str:
    """Return one line for a result: what it was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{_cpu_name()}, Apple GPU"
    return f"{_cpu_name()}, cores: {os.cpu_count()}, threads: {torch.get_num_threads()}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
