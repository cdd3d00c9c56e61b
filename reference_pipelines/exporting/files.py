"""The two kinds of file, made in memory: the bytes, and what runs them again."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from reference_pipelines.errors import UserError

METADATA = "metadata.json"
"""The extra file of an exported program that says what it is."""

INPUT, OUTPUT = "images", "features"

Runs = Callable[[Tensor], Tensor]


def capture(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Return the network's graph for any number of images.

    Args:
        network: in eval mode.
        example: (N, ...) with N > 1, which exporters do not take for a constant.

    Raises:
        UserError: torch.export does not capture it.
    """
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # what torch cannot capture, and how it says so, depends on the backbone
        raise UserError(
            f"export: torch.export must be able to capture the network, and it failed with {_short(error)}; "
            "another backbone may do"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines and folders of this machine
    return program


def program_file(program: torch.export.ExportedProgram, about: Mapping[str, Any]) -> tuple[bytes, Runs]:
    """Return the file of torch.export.save, and what loads and runs it."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file, extra_files={METADATA: json.dumps(about, indent=1)})
        loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), loaded


def require_onnx() -> None:
    """Refuse to begin without the packages that an ONNX file is made and checked with.

    Raises:
        UserError: one is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401  the parity is checked in it
        import onnxscript  # noqa: F401  torch writes ONNX by it
    except ModuleNotFoundError as error:
        raise UserError(
            f"export: an ONNX file needs {error.name}, which is not installed; pip install 'attnreid[onnx]'"
        ) from None


def onnx_file(program: torch.export.ExportedProgram, about: Mapping[str, Any]) -> tuple[bytes, Runs]:
    """Return the ONNX file, and what runs it in onnxruntime.

    Raises:
        UserError: ONNX does not express the network.
    """
    import onnx
    import onnxruntime

    try:
        with _quiet():
            written = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], optimize=True, verbose=False
            )
        assert written is not None
        proto = written.model_proto
    except Exception as error:  # as in capture
        raise UserError(
            f"export: ONNX must be able to express the network, and it failed with {_short(error)}; "
            "a file for torch alone (--torch-export) may do"
        ) from error
    _name_batch(proto.graph)
    onnx.helper.set_model_props(proto, {key: _text(value) for key, value in about.items()})
    content = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return content, run


def _name_batch(graph: Any) -> None:
    """Call the number of images "batch" wherever torch's own name for it stands."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = dim.dim_param.replace(symbol, "batch")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(error: Exception) -> str:
    """Return an exporter's error in one line of bearable length."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the terminal what the exporters print, log and warn of themselves; what fails is raised too."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.ERROR))
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
