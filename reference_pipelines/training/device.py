"""Where a run computes, and on what."""

import os
import platform

import torch

from reference_pipelines.config import Device
from reference_pipelines.errors import UserError


def pick_device(wanted: Device) -> torch.device:
    """Return the device; "auto" takes CUDA where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for and torch sees no CUDA device; use --device auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def describe_hardware(device: torch.device) -> str:
    """Return one line for a result: what it was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
