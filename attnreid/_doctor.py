"""What `attnreid doctor` looks at: versions, devices, extras, and what compiles here.

Each trial is a text that a process of its own runs, with a time limit, so that a broken compiler or a library that
crashes the interpreter is a line of the answer. Nothing optional is imported here; the table of extras above the trials
says what to install.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata

import torch

import attnreid
from attnreid._options import DoctorOptions
from attnreid.text import format_table

_SECONDS = 180
_TRIALS = {
    "torch.compile": """
import torch
f = torch.compile(lambda x: (x.sin() * 2).relu())
x = torch.randn(64)
assert torch.allclose(f(x), (x.sin() * 2).relu(), atol=1e-6)
""",
    "torch.export": """
import torch, attnreid
layer = attnreid.SqueezeExcitation(16).eval()
x = torch.randn(2, 16, 4, 4)
assert torch.allclose(torch.export.export(layer, (x,)).module()(x), layer(x), atol=1e-6)
""",
    "numba": """
import numba
@numba.njit
def total(n):
    s = 0
    for i in range(n):
        s += i
    return s
assert total(10) == 45
""",
    "torchcodec (JPEG)": """
import io
import torch
from PIL import Image
from torchcodec.decoders import decode_jpeg
file = io.BytesIO()
Image.new("RGB", (8, 4), (200, 10, 10)).save(file, "JPEG")
assert tuple(decode_jpeg(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)).shape[-2:]) == (4, 8)
""",
    "Pillow (JPEG)": """
import io
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (8, 4), (200, 10, 10)).save(file, "JPEG")
assert Image.open(io.BytesIO(file.getvalue())).size == (8, 4)
""",
    "safetensors": """
import torch
from safetensors.torch import load, save
assert load(save({"a": torch.ones(2)}))["a"].sum() == 2
""",
    "onnxruntime": """
import onnxruntime
assert "CPUExecutionProvider" in onnxruntime.get_available_providers()
""",
}
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9._-]+)")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


@dataclass(frozen=True)
class Findings:
    """What this machine has.

    Args:
        versions: of attnreid, Python, the system, torch and the two other packages that it needs.
        devices: what torch can compute on, by its name.
        extras: for each extra, the version of every package that it asks for; None where that is missing.
        trials: for each trial "works", or why not.
    """

    versions: Mapping[str, str]
    devices: Mapping[str, str]
    extras: Mapping[str, Mapping[str, str | None]]
    trials: Mapping[str, str]


def doctor(options: DoctorOptions) -> None:
    """Print what this machine has, for a bug report."""
    found = Findings(_versions(), _devices(), _extras(), {name: _try(code) for name, code in _TRIALS.items()})
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return
    rows: list[tuple[str, str]] = [*found.versions.items(), ("", ""), *found.devices.items(), ("", "")]
    for extra, packages in found.extras.items():
        words = [f"{name} {version}" for name, version in packages.items() if version is not None]
        missing = [name for name, version in packages.items() if version is None]
        rows.append((f"[{extra}]", ", ".join([*words, *([f"MISSING {' '.join(missing)}"] if missing else [])])))
    rows += [("", ""), *found.trials.items()]
    print("\n".join(format_table(rows, "<<")))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    found = {"attnreid": attnreid.__version__, "Python": platform.python_version(), "system": platform.platform()}
    found |= {name: _version(name) or "MISSING" for name in ("numpy", "einops")}
    return found | {"torch": torch.__version__, "CUDA of torch": torch.version.cuda or "none"}


def _devices() -> dict[str, str]:
    found = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch"}
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple"
    return found


def _extras() -> dict[str, dict[str, str | None]]:
    """Return what each extra asks for, as the installed package says it, but for the developers' own."""
    try:
        asked = metadata.requires("attnreid") or []
    except metadata.PackageNotFoundError:  # a checkout on the path, not installed
        return {}
    found: dict[str, dict[str, str | None]] = {}
    for line in asked:
        extra, name = _EXTRA.search(line), _REQUIREMENT.match(line)
        if extra and name and extra[1] != "dev":
            found.setdefault(extra[1], {})[name[1]] = _version(name[1])
    return found


def _try(code: str) -> str:
    """Return "works", or the last line of what a fresh process said."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} seconds"
    if not done.returncode:
        return "works"
    lines = done.stderr.strip().splitlines()
    missing = re.match(r"ModuleNotFoundError: No module named '(\w+)", lines[-1] if lines else "")
    if missing:
        return f"not installed ({missing[1]})"
    return next((line for line in reversed(lines) if "Error" in line), f"ended with status {done.returncode}")
