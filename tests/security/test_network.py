"""No command reaches for the network; only a weight name asks for it. And code that is run is announced."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnreid.__main__ import PROGRAM as ATTNREID
from reference_pipelines.commands.cli import COMMANDS, PROGRAM
from reference_pipelines.errors import UserError
from reference_pipelines.reproduction.demo import run_demo
from tests.data import miniatures
from tests.fuzz import readers
from tests.fuzz.command_lines import answer
from tests.reproduction.miniature import SCALE, run_here
from tests.reproduction.test_demo import SMALL

_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
_watched: list[str] | None = None


class Reached(BaseException):
    """Something reached for the network; no `Exception`, so that nothing takes it for a failure to try around."""


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _watched is not None and event in _EVENTS and not (event == "socket.connect" and isinstance(arguments[1], str)):
        _watched.append(f"{event} {arguments}")  # a connection by a name is one to a process of this machine
        raise Reached(event)


@pytest.fixture
def offline() -> Iterator[list[str]]:
    """Forbid the network, and list what has reached for it."""
    global _watched
    if not getattr(sys, "_attnreid_offline", False):
        sys.addaudithook(_listen)  # there is no way to take one away
        sys._attnreid_offline = True  # type: ignore[attr-defined]
    _watched = []
    yield _watched
    _watched = None


def test_the_fixture_forbids_it(offline):
    import urllib.request

    for reach in (lambda: urllib.request.urlopen("http://127.0.0.1:9/x"), lambda: _connect("127.0.0.1")):
        with pytest.raises(Reached):
            reach()
    assert len(offline) == 2


def _connect(host: str) -> None:
    import socket

    socket.create_connection((host, 9), timeout=1)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("offline")
    found = {
        "out": root / "out",
        "market": miniatures.market1501(root / "market"),
        "ledger": readers.ledger(root / "ledger"),
        "store": readers.store(root / "store"),
    }
    (root / "out").mkdir()
    return {name: str(path) for name, path in found.items()}


# What each command is called with; those in LATER take longer, or need a trained run.
NOW = {
    "train": "train apnet --config demo --data.root {market} --print_config",
    "resume": "resume {out}",
    "search": "search {store} --gallery {store} --top 2",
    "cluster": "cluster {store} --out {out}/clusters.csv --k1 3 --k2 2",
    "check-result": "check-result {ledger}",
    "claims": "claims {ledger}",
    "reproduce": "reproduce list",
    "data verify": "data verify {market}",
}
LATER = {
    "train": "train apnet --config {run}/config.yaml --out {out}/again --model.weights {run}",
    "evaluate": "evaluate {run} --workers 0",
    "extract": "extract {run} {images} --out {out}/features --workers 0",
    "calibrate": "calibrate {run} --data {images} --part train --rate 0.5",
    "same": "same {run} {image} {image} --rate 0.5",
    "export": "export {run} --torch-export {out}/network.pt2",
    "report": "report {run} --out {out}/report.html",
    "explain": "explain {run} {image} --out {out}/explained",
    "data render": "data render {out}/rendered --image-size 16 8 --workers 0",
    "data difficulty": "data difficulty {images} --workers 0",
}
APART = ("demo", "completion")  # the first starts processes: see below
# doctor starts processes that try what is installed; neither is given anything that could name an address.
LIBRARY_APART = ("doctor", "completion")
LIBRARY = {
    "sites": "sites tests.fuzz.command_lines:small --input-size 16 8",
    "cost": "cost tests.fuzz.command_lines:small --preset pyramid --levels 1 --stages 1 --input-size 16 8",
}


def test_every_command_is_tried():
    assert {*NOW, *LATER, *APART} == set(COMMANDS)
    assert {*LIBRARY, *LIBRARY_APART} == set(ATTNREID.commands)


@pytest.mark.parametrize("name", LIBRARY)
def test_the_librarys_commands_stay_offline(name, offline):
    result = answer(ATTNREID, LIBRARY[name].split(), stub=False)
    assert (result.status, offline) == (0, []), result.err


@pytest.mark.parametrize("name", NOW)
def test_commands_stay_offline(name, places, offline):
    result = answer(PROGRAM, NOW[name].format(**places).split(), stub=False)
    assert offline == []
    assert result.status in (0, 1) or name == "resume", result.err


@pytest.mark.slow
def test_commands_with_a_trained_run_stay_offline(trained_run, images, places, offline):
    image = next(Path(images).rglob("*.jpg"))
    known = {**places, "run": trained_run, "images": images, "image": image}
    for name, line in LATER.items():
        result = answer(PROGRAM, line.format(**known).split(), stub=False)
        assert offline == []
        assert result.status in (0, 1), (name, result.err)


def test_only_a_weight_name_asks_for_it(offline, monkeypatch, tmp_path):
    """ImageNet weights do: so the fixture would see the others, too."""
    from reference_pipelines.config.sections import ModelConfig
    from reference_pipelines.models.sources import build_network

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # none is there already
    build_network(ModelConfig(backbone="resnet18", weights="none"), (32, 16), print)
    assert offline == []
    with pytest.raises((Reached, UserError)):
        build_network(ModelConfig(backbone="resnet18", weights="imagenet"), (32, 16), print)
    assert offline != []


@pytest.mark.slow
def test_the_demo_stays_offline(tmp_path, monkeypatch, offline):
    """Its two kinds of run in miniature, in this process."""
    monkeypatch.setattr("reference_pipelines.reproduction.running.run_jobs", run_here([]))
    run_demo(tmp_path / "demo", experiment=SMALL, scale=SCALE)
    assert offline == []


# Code that is run


@pytest.mark.parametrize("command", ["sites", "cost"])
def test_the_help_says_that_code_is_run(command):
    for words in ([command, "--help"], ["--help"]):
        assert "code" in answer(ATTNREID, words, stub=False).out


def test_the_help_of_train_says_that_code_is_run():
    told = " ".join(answer(PROGRAM, ["train", "apnet", "--help"], stub=False).out.split())
    assert "module:callable, which is imported and called, so that its code runs" in told
