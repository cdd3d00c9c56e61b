"""What a test needs on the machine to run torch's compiler."""

import os
import shutil
import sysconfig
from pathlib import Path


def why_inductor_cannot_run() -> str | None:
    """Return what is missing, or None where nothing is."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"inductor needs a C++ compiler, and there is no {compiler}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "inductor needs Python's headers, and there is no Python.h"
    return None
