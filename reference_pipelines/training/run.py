"""A run folder: config.yaml, log.jsonl, model.safetensors, examples, and result.json, written last."""

import contextlib
import functools
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

import attnreid
from reference_pipelines.config import to_plain
from reference_pipelines.errors import UserError

CONFIG = "config.yaml"
RESULT = "result.json"
EVALUATIONS = "evaluations"
WEIGHTS = "model.safetensors"


class Run:
    """Where one training writes; a folder that already holds a run is refused.

    Args:
        folder: created here, with config.yaml in it.
        config: a config dataclass.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"run: {folder} exists and is not empty; name a new folder with --out or remove it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run: cannot write in {folder} ({error.strerror}); choose another --out") from None
        self.folder = folder
        self.started = time.perf_counter()
        self.config = to_plain(config)
        write_text(folder / CONFIG, yaml.safe_dump(self.config, sort_keys=False))

    def log(self, **entry: Any) -> None:
        """Append one line to the log and show it."""
        entry["seconds"] = round(self.seconds(), 2)
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        shown = [f"{name} {_short(value)}" for name, value in entry.items() if value is not None]
        print("  ".join(shown), flush=True)

    def seconds(self) -> float:
        """Return the seconds since the run was opened."""
        return time.perf_counter() - self.started

    def save(self, model: nn.Module) -> None:
        """Write the weights; the file is whole or is the one before."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        path = self.folder / WEIGHTS
        save_file(state, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def discard_unless_saved(self) -> None:
        """Remove what a run that failed before its first weights has written."""
        if not (self.folder / WEIGHTS).exists():
            for name in (CONFIG, "log.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the result with what it was measured by, and return it."""
        complete = {**result, "seconds": round(self.seconds(), 1), **provenance(), "config": self.config}
        write_text(self.folder / RESULT, json.dumps(complete, indent=2))
        return complete


def provenance() -> dict[str, Any]:
    """Return the versions, the commit and the command behind a number."""
    return {
        "command": shlex.join(["python", "-m", "reference_pipelines", *sys.argv[1:]]),
        "commit": _commit(),
        "code": code_digest(),
        "versions": {"attnreid": attnreid.__version__, "torch": torch.__version__},
    }


def file_digest(path: Path) -> str | None:
    """Return a digest of a file's content, or None where there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """Return a digest of torch's version and of the sources of both packages."""
    digest = hashlib.sha256(torch.__version__.encode())
    for package in (Path(attnreid.__file__).parent, Path(__file__).parents[1]):
        for source in sorted(package.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds all of it or the one before."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
