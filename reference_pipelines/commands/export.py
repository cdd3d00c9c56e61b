"""`export`: a trained network as a file that runs without this package."""

from reference_pipelines.commands.options import ExportOptions
from reference_pipelines.errors import UserError
from reference_pipelines.serving.embedder import load
from reference_pipelines.serving.export import TOLERANCE, export


def run(options: ExportOptions) -> None:
    """Write the files and say how far their features are from the network's.

    Raises:
        UserError: no file is named, there is no such model, or it cannot be exported.
    """
    if options.onnx is None and options.torch_export is None:
        raise UserError("export: name a file to write with --onnx FILE or --torch-export FILE")
    model = load(options.model, device="cpu", flip=options.flip, who="export")
    differences = export(
        model,
        onnx=options.onnx,
        torch_export=options.torch_export,
        folded=options.fold,
        preprocessing=options.preprocessing,
    )
    height, width = model.identity.image_size
    takes = f"uint8 (N, {height}, {width}, 3)" if options.preprocessing else f"float32 (N, 3, {height}, {width})"
    for path, difference in differences.items():
        print(f"{path}: {takes} to features (N, {model.dim}), largest difference {difference:.1e} of {TOLERANCE:g}")
