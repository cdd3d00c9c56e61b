"""What tests need of torch's compiler and tracers."""

import io
import os
import shutil
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def traced_and_loaded(model: nn.Module, example: Tensor, *, again: bool = True) -> nn.Module:
    """Return what a file of torch.jit.trace's holds; an answer that our code took for all inputs is an error.

    With `again`, torch traces a second time and compares the graphs.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.* is deprecated")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # the backbones' and torch's own
        warnings.filterwarnings("error", category=torch.jit.TracerWarning, module="attnreid")
        torch.jit.save(torch.jit.trace(model, example, check_trace=again), file)
        file.seek(0)
        return torch.jit.load(file)


def legacy_onnx(model: nn.Module, example: Tensor) -> Any:
    """Return a session of onnxruntime with what the exporter built on torch.jit.trace writes, its batch dynamic."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the parity is with onnxruntime")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("error", category=torch.jit.TracerWarning, module="attnreid")
        torch.onnx.export(
            model,
            (example,),
            file,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file.getvalue(), options)


def why_inductor_cannot_run() -> str | None:
    """Return what is missing, or None where nothing is."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"inductor needs a C++ compiler, and there is no {compiler}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "inductor needs Python's headers, and there is no Python.h"
    return None
