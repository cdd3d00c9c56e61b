"""onnxruntime-web from npm: fetched once, checked against its digest, and made a script that any page can load.

The package's module loads a second file by a request, which a page opened as a file may not do. Here the WebAssembly
code lies in a script as text, and the module becomes a script without imports, so that the page makes no request of its
own and needs no server.
"""

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from attnreid.files import write_bytes
from reference_pipelines.errors import UserError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_SCRIPT, _BINARY = "package/dist/ort.wasm.bundle.min.mjs", "package/dist/ort-wasm-simd-threaded.wasm"
_EXPORTS = re.compile(r"export\{([^{}]*)\};?\s*(//# sourceMappingURL=\S+\s*)?$")


class Runtime(NamedTuple):
    """onnxruntime-web as the page loads it.

    Args:
        script: JavaScript that defines `ort`.
        binary: the WebAssembly code.
    """

    script: str
    binary: bytes


def fetch(folder: Path, archive: Path | None = None) -> Runtime:
    """Return the runtime of the pinned version.

    Args:
        folder: where the package's archive is kept, and found again.
        archive: the package's archive where it is there already, so that npm is not asked.

    Raises:
        UserError: npm is missing or fails, or the archive is not the pinned one.
    """
    kept = archive or folder / f"{PACKAGE}-{VERSION}.tgz"
    if not kept.is_file():
        if archive is not None:
            raise UserError(f"playground: --runtime must be {PACKAGE} {VERSION} as npm packs it, got no file {archive}")
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, _packed())
    content = kept.read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != INTEGRITY:
        raise UserError(
            f"playground: {kept} must be {PACKAGE} {VERSION} with the digest {INTEGRITY}, got {found}; without "
            "that file it is fetched anew"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        script, binary = (_member(files, name) for name in (_SCRIPT, _BINARY))
    return Runtime(as_plain_script(script.decode()), binary)


def as_plain_script(module: str) -> str:
    """Return a bundled module as a script that defines the global `ort`, its default export.

    Raises:
        ValueError: it does not end in one list of exports with a default, or imports something by name.
    """
    found = _EXPORTS.search(module)
    default = found and re.search(r"([\w$]+) as default", found[1])
    if not found or not default or re.search(r"(^|[;}\s])import\s*[\w{*]", module):
        raise ValueError("as_plain_script: the module must be one bundle that ends in its exports, got another one")
    # Where the script came from; nothing is loaded from there, since the page hands the binary over itself.
    body = module[: found.start()].replace("import.meta.url", "document.baseURI")
    return f"(() => {{\n{body.rstrip()}\nglobalThis.ort = {default[1]};\n}})();\n"


def as_data_script(name: str, content: bytes) -> str:
    """Return a script that sets `globalThis[name]` to bytes, compressed by gzip and in base64."""
    text = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    return f"globalThis[{json.dumps(name)}] = {json.dumps(text)};\n"


def _member(files: tarfile.TarFile, name: str) -> bytes:
    file = files.extractfile(name)
    assert file is not None
    return file.read()


def _packed() -> bytes:
    """Return the package's archive as npm gives it."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"playground: {PACKAGE} comes by npm, which is not installed; install Node.js, or name the archive "
            f"{PACKAGE}-{VERSION}.tgz with --runtime FILE"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder, "--silent"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        archives = [*Path(folder).glob("*.tgz")]
        if done.returncode != 0 or len(archives) != 1:
            said = " ".join((done.stderr or done.stdout).split())[:300]
            raise UserError(
                f"playground: npm must give {PACKAGE} {VERSION}, and it failed with {said!r}; see whether the registry "
                "is within reach, or name the archive with --runtime FILE"
            )
        return archives[0].read_bytes()
