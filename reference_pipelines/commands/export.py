"""`export`: a trained network as a file that runs without this package."""

from reference_pipelines.commands.options import ExportOptions
from reference_pipelines.data.names import printable
from reference_pipelines.errors import UserError
from reference_pipelines.exporting.export import BATCHES, TOLERANCE, export
from reference_pipelines.serving.embedder import load


def run(options: ExportOptions) -> None:
    """Write the files and say what they take and how far their features are from the network's.

    Raises:
        UserError: no file is named, there is no such model, or it cannot be exported.
    """
    if options.onnx is None and options.torch_export is None:
        raise UserError("export: a file must be named, got none; use --onnx FILE or --torch-export FILE, or both")
    # On the CPU wherever it is to run later: what is written is the same.
    model = load(options.model, device="cpu", flip=options.flip, who="export")
    files = export(
        model,
        onnx=options.onnx,
        torch_export=options.torch_export,
        fold=options.fold,
        preprocessing=options.preprocessing,
    )
    about = files[0].metadata
    print(printable(f"{model.title}{', folded' if options.fold else ''}: {about['input']}"))
    print(f"to {about['output']}")
    batches = ", ".join(map(str, BATCHES[:-1])) + f" and {BATCHES[-1]}"
    for file in files:
        print(
            printable(
                f"{file.path}: {file.kind}, {file.size / 2**20:.1f} MiB; of {batches} random images its features are "
                f"at most {file.difference:.1e} away from the network's ({TOLERANCE:g} is allowed)"
            )
        )
