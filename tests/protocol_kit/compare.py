"""Runs the peers' adapters, each in an environment of its own, and writes docs/results/protocol_kit.md.

    python -m tests.protocol_kit.compare                                    all peers, all cases (make protocol-kit)
    python -m tests.protocol_kit.compare --peer torchreid --case "ties/*"   prints the outcomes, writes nothing

The environments lie in .venv-peers. Each sees the packages of the environment that runs this (torch above all) and has
what the peer needs beside; what stands there is used again.
"""

import argparse
import json
import platform
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reference_pipelines.distributed.device import describe_hardware
from tests.protocol_kit import page, rendered, run

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
RESULTS = ROOT / "docs" / "results" / "protocol_kit.json"
PAGE = RESULTS.with_suffix(".md")
ADAPTERS = Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class Peer:
    """A library that is held to the cases.

    Args:
        name: its name on the index.
        requires: what is installed for it; nothing: it runs in the environment that runs this.
        alone: installed without what the package says it needs.
    """

    name: str
    requires: tuple[str, ...] = ()
    alone: bool = False

    @property
    def adapter(self) -> Path:
        """Its adapter."""
        return ADAPTERS / f"{self.name.replace('-', '_')}_adapter.py"


PEERS = (
    Peer("attnreid"),
    # It imports OpenCV, gdown and tensorboard and does not say so.
    Peer("torchreid", ("torchreid==0.2.5", "opencv-python-headless", "gdown", "tensorboard")),
    Peer("reid", ("reid==0.1.0rc1",)),
    Peer("fastreid", ("fastreid==1.4.0",), alone=True),  # it requires torch 1.13.1, its ranking NumPy alone
    Peer("open-metric-learning", ("open-metric-learning==4.0.0", "omegaconf")),  # omegaconf is not said either
    Peer("pytorch-metric-learning", ("pytorch-metric-learning==2.9.0",)),
    Peer("torchmetrics", ("torchmetrics==1.9.0",)),
    Peer("scikit-learn"),
)


def interpreter(peer: Peer) -> Path:
    """Return the Python that runs a peer's adapter, and make its environment where there is none.

    Raises:
        RuntimeError: what the peer needs does not install.
    """
    if not peer.requires:
        return Path(sys.executable)
    folder = ENVIRONMENTS / peer.name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join([sys.prefix, *peer.requires])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"protocol-kit: installing {', '.join(peer.requires)} in {folder}", file=sys.stderr)
    venv.create(folder, clear=True, symlinks=True)
    # The packages of this environment are seen from there, behind its own.
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(own, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", *(["--no-deps"] if peer.alone else [])]
    done = subprocess.run([python, "-m", "pip", "install", *options, *peer.requires], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"it does not install: {(done.stderr.strip() or 'pip said nothing').splitlines()[-1]}")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def command(peer: Peer) -> list[str]:
    """Return the command of a peer's adapter."""
    return [str(interpreter(peer)), str(peer.adapter)]


def outcomes(peer: Peer, cases: Sequence[run.Case]) -> dict[str, Any]:
    """Return what a peer's adapter says of itself and its outcomes; one that does not run supports nothing."""
    try:
        hello, found = run.run(command(peer), cases)
    except (OSError, RuntimeError) as error:
        hello = {"name": peer.name, "version": "", "versions": {}, "notes": [str(error)], "reasons": {}}
        found = [run.Outcome(case["name"], "not supported", str(error)) for case in cases]
    return {"adapter": hello, "requires": list(peer.requires), "outcomes": [_short(each) for each in found]}


def _short(outcome: run.Outcome) -> dict[str, Any]:
    """Return an outcome without the lists of single queries, which would fill the file."""
    wrong = {key: each for key, each in outcome.wrong.items() if not isinstance(each["got"], list)}
    return asdict(outcome) | {"wrong": wrong}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=[peer.name for peer in PEERS], help="this one alone; nothing is written")
    parser.add_argument("--case", default="*", help="names of cases, with * and ?; nothing is written")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if options.peer in (None, peer.name)]
    cases = run.read_cases(pattern=options.case)
    said, made = ("", [])
    if options.case == "*" or options.case.startswith("rendered"):
        said, made = rendered.make()
        cases += [case for case in made if run.matches(case["name"], options.case)]
    if not cases:
        print(f"compare: no case is named {options.case}", file=sys.stderr)
        return 2
    if options.peer is not None or options.case != "*":
        for peer in peers:
            try:
                hello, found = run.run(command(peer), cases)
            except (OSError, RuntimeError) as error:
                print(f"{peer.name}: {error}")
                continue
            print("\n".join([*map(run.describe, found), run.summary(hello, found)]))
        return 0
    content = {
        "cases": run.digest(),
        "rendered": {
            "said": said,
            "mAP": {case["name"]: case["expected"]["mAP"] for case in made},
            "says": {case["name"]: case["says"] for case in made},
            "rules": rendered.rules(made[0]),
        },
        "machine": f"{describe_hardware(torch.device('cpu'))}, Python {platform.python_version()}",
        "peers": [],
    }
    for peer in peers:
        found = outcomes(peer, cases)
        content["peers"].append(found)
        counts = [sum(each["outcome"] == name for each in found["outcomes"]) for name in run.OUTCOMES]
        print(f"{peer.name}: {', '.join(f'{n} {name}' for n, name in zip(counts, run.OUTCOMES, strict=True) if n)}")
    with tempfile.TemporaryDirectory(dir=RESULTS.parent) as folder:
        for path, text in (
            (RESULTS, json.dumps(content, indent=1) + "\n"),
            (PAGE, page.page(content, run.read_cases())),
        ):
            whole = Path(folder) / path.name
            whole.write_text(text, encoding="utf-8")
            whole.replace(path)
            print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
