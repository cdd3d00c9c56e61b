"""A trained network as a file that runs without this package: ONNX, or torch's exported program."""
