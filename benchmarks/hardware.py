"""Under what the rows were measured, and how fast the machine multiplies and copies."""

import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.cases import Case, Problem, Variant

MATMUL = "matmul"
COPY = "copy"


def describe_conditions(device: torch.device, dtype: torch.dtype) -> dict[str, str | int]:
    """Return the date, device, threads, dtype and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def matmul_variant(problem: Problem) -> Variant:
    """Build the product of two square matrices as wide as the problem."""
    width = problem.shape[-1]
    a, b = (torch.randn(width, width, **problem.factory) for _ in range(2))
    out = torch.empty_like(a)
    return Variant(lambda: torch.mm(a, b, out=out))


def copy_variant(problem: Problem) -> Variant:
    """Build the copy of a block too large for the caches."""
    source = torch.randn(problem.shape, **problem.factory)
    target = torch.empty_like(source)
    return Variant(lambda: target.copy_(source))


def make_rates(device: torch.device) -> tuple[Case, ...]:
    """Return the cases that measure the machine itself: one matrix product, one copy."""
    width, rows = (8192, 512) if device.type == "cuda" else (1536, 64)
    options = {"peers": (), "batch": 1, "resizable": False, "memory": False}
    return (
        Case(MATMUL, "matrix product", matmul_variant, shapes=((1, width, width),), **options),  # type: ignore[arg-type]
        Case(COPY, "copy", copy_variant, shapes=((rows, 1024, 1024),), **options),  # type: ignore[arg-type]
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
