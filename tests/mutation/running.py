"""Runs tests in forked children of a process that has the heavy packages loaded, and nothing of this project.

A child takes the mutant's source in the place of the file's when the module is imported; nothing is written into the
working tree. Programs that a test starts see the file as it is.
"""

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest

from tests.mutation.mutants import Mutant, mutated
from tests.mutation.targets import ROOT, Area

HEAVY = (
    *(
        "torch",
        "torch._dynamo",
        "torch.utils.data",
        "numpy",
        "einops",
        "scipy.sparse",
        "sklearn.cluster",
        "numba",
        "yaml",
    ),
    *("safetensors.torch", "PIL.Image", "torchvision", "hypothesis", "timm", "matplotlib.figure", "jinja2"),
)
_ALWAYS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
MEMORY = 12 << 30  # of address space, most of it torch's own
COMPILED = "njit("


def load_heavy() -> None:
    """Import what takes long, without starting a thread: a forked child has none of its parent's."""
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    own = [name for name in sys.modules if name.partition(".")[0] in ("attnreid", "reference_pipelines")]
    assert not own, f"{own[0]} is loaded, so that no mutant of it would be"


def in_child(work: Callable[[], int], log: Path, limit: float) -> tuple[int | None, float]:
    """Fork, do it, and return the exit status (None: it was stopped at the limit of seconds) and how long it took."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_a_child(work, log)
    status = _wait(child, started + limit)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started, if anything is left
    if status is None:
        os.waitpid(child, 0)
    return status, time.monotonic() - started


def _be_a_child(work: Callable[[], int], log: Path) -> None:
    status = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY + _address_space(), resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = work()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _wait(child: int, until: float) -> int | None:
    pause = 0.01
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.2, 0.2)
    return None


def run_pytest(files: Sequence[str], plugin: object, *words: str) -> int:
    """Run tests in a folder for temporary files of its own, which is removed."""
    base = Path(tempfile.mkdtemp(prefix="mutant"))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(base / "hypothesis")
    try:
        return int(pytest.main([*_ALWAYS, f"--basetemp={base / 'pytest'}", *words, *files], plugins=[plugin]))
    finally:
        shutil.rmtree(base, ignore_errors=True)


class Recorder:
    """A pytest plugin that notes which lines of the sources each test runs, and how long it takes."""

    def __init__(self, sources: Sequence[str]):
        self.sources = {str(ROOT / path): path for path in sources}
        self.lines: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.seconds: dict[str, float] = defaultdict(float)
        self.now = "import"

    def watch(self) -> None:
        """Start noting."""
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        path = self.sources.get(frame.f_code.co_filename)
        if path is None:
            return None
        seen = self.lines[self.now]
        seen.add((path, frame.f_lineno))

        def note(frame: FrameType, event: str, arg: object) -> Any:
            self.lines[self.now].add((path, frame.f_lineno))
            return note

        return note

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Any:
        # A fixture may be of the module: what it runs counts for every test there.
        self.now = f"setup {item.nodeid.partition('::')[0]}"
        sys.settrace(self._trace)
        yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        self.now = item.nodeid
        sys.settrace(self._trace)  # some tests leave none
        yield

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def found(self) -> dict[str, Any]:
        """Return what was noted."""
        return {"lines": {name: sorted(lines) for name, lines in self.lines.items()}, "seconds": self.seconds}


class Chosen:
    """A pytest plugin that runs these tests, in this order, and no others."""

    def __init__(self, tests: Sequence[str]):
        self.order = {name: number for number, name in enumerate(tests)}
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        known = [each for each in items if each.nodeid in self.order]
        items[:] = sorted(known, key=lambda each: self.order[each.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration


def which_tests_run_what(area: Area, folder: Path) -> dict[str, Any]:
    """Return the lines that each test of an area runs, looked up once for the sources and tests as they are."""
    noted, log = folder / f"{area.name}.json", folder / f"{area.name}.log"
    stamp = _stamp([*area.modules(), *area.test_files()])
    if noted.exists():
        known: dict[str, Any] = json.loads(noted.read_text())
        if known.get("stamp") == stamp:
            return known

    def note() -> int:
        recorder = Recorder(area.modules())
        recorder.watch()
        status = run_pytest(area.test_files(), recorder)
        sys.settrace(None)
        noted.write_text(json.dumps(recorder.found()))
        return status

    def control() -> int:
        timed = Chosen(_quickest_first(known["seconds"]))
        status = run_pytest(area.test_files(), timed)
        noted.write_text(json.dumps({**known, "seconds": timed.seconds, "stamp": stamp}))
        return status

    for work in (note, control):
        status, seconds = in_child(work, log, 3600)
        if status != 0:
            raise SystemExit(f"the tests of {area.name} fail without any mutant: {log}")
        known = json.loads(noted.read_text())
        print(f"{area.name}: {seconds:.0f} s to {work.__name__} {len(known['seconds'])} tests", flush=True)
    return known


def _quickest_first(seconds: dict[str, float]) -> list[str]:
    return sorted(seconds, key=lambda name: seconds[name])


def _stamp(paths: Sequence[str]) -> str:
    return hashlib.sha256(b"".join((ROOT / path).read_bytes() for path in paths)).hexdigest()


def tests_of(mutant: Mutant, noted: dict[str, Any], budget: float) -> list[str]:
    """Return the tests that run a mutant's lines, the quickest first, as many as fit into the budget of seconds."""
    here = {(mutant.path, line) for line in range(mutant.line, mutant.last + 1)}
    lines = {name: {tuple(each) for each in found} for name, found in noted["lines"].items()}
    tests = {name for name in noted["seconds"] if here & lines.get(name, set())}
    files = {name.removeprefix("setup ") for name, found in lines.items() if name.startswith("setup ") and here & found}
    tests |= {name for name in noted["seconds"] if name.partition("::")[0] in files}
    if not tests and (here & lines.get("import", set()) or _is_compiled(mutant)):
        # What runs once, or as machine code: every test that runs anything of the file.
        tests = {name for name in noted["seconds"] if any(path == mutant.path for path, _ in lines.get(name, set()))}
    chosen, left = [], budget
    for name in _quickest_first({name: noted["seconds"][name] for name in tests}):
        left -= noted["seconds"][name]
        if left > 0:
            chosen.append(name)
    return chosen


def _is_compiled(mutant: Mutant) -> bool:
    return COMPILED in (ROOT / mutant.path).read_text(encoding="utf-8")


def try_mutant(mutant: Mutant, tests: Sequence[str], log: Path, limit: float) -> tuple[int | None, float]:
    """Run the tests with the mutant in the file's place; the status is pytest's."""

    def work() -> int:
        take_in_place(mutant)
        files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
        return run_pytest(files, Chosen(tests), "-x", "--tb=line")

    return in_child(work, log, limit)


def take_in_place(mutant: Mutant) -> None:
    """Have the module imported as the mutant."""
    tree = mutated(mutant)
    if _is_compiled(mutant):
        _without_cache(tree)
    sys.meta_path.insert(0, _Finder(mutant.module, ROOT / mutant.path, compile(tree, str(ROOT / mutant.path), "exec")))


def _without_cache(tree: ast.Module) -> None:
    """Have the compiled functions compiled anew: numba keeps them by the file, which is as it was."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "cache":
            node.value = ast.copy_location(ast.Constant(value=False), node.value)


class _Finder:
    def __init__(self, name: str, path: Path, code: CodeType):
        self.name, self.path, self.code = name, path, code

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=_Loader(name, str(self.path), self.code))


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, code: CodeType):
        super().__init__(name, path)
        self.code = code

    def get_code(self, fullname: str) -> CodeType:
        return self.code
