"""Both programs' commands and every config key: words around the valid ones, and what must have been understood."""

import dataclasses
import functools
import io
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest import mock

import pytest
import yaml
from hypothesis import strategies as st
from torch import nn

import attnreid._answers  # noqa: F401  (what imports it first would seem to hang)
from attnreid.__main__ import PROGRAM as ATTNREID
from attnreid.command_line import Program, UserError
from attnreid.command_line.options import REQUIRED, Option, options_of
from reference_pipelines.commands.cli import PROGRAM as PIPELINES_PROGRAM
from reference_pipelines.config.loading import keys_of, load_config
from reference_pipelines.pipelines import PIPELINES
from tests.data import miniatures
from tests.fuzz.attaching import _convs
from tests.fuzz.harness import Arguments, Entry
from tests.fuzz.readers import config_fits, fits, ledger, store

Draw = Callable[..., Any]

ODD_WORDS = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                " ",
                "-",
                "--",
                "---",
                "=",
                "[",
                "]",
                "[]",
                "[,]",
                ",",
                ",,",
                "null",
                "None",
                "true",
                "no",
                "nan",
                "inf",
                "-inf",
            ),
            *(
                "0",
                "-1",
                "1.5",
                "1e400",
                "9" * 30,
                "9" * 5000,
                "0x10",
                "1_000",
                "٣",
                "²",
                "½",
                "\0",
                "\ud800",
                "é",
                "a=b",
                "~",
            ),
            *(
                "../..",
                "/dev/null",
                "/dev/full",
                "--help",
                "-h",
                "--version",
                "--out",
                "--data.root",
                "*",
                "'",
                '"',
                "a\nb",
                "%s",
                "{0}",
            ),
        ]
    ),
    st.text(max_size=4),
)


def right_words(kind: Any, rng: Draw) -> list[str]:
    """Return words for a value of a type."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is tuple:
        count = rng(st.integers(1, 3)) if Ellipsis in parts else len(parts)
        return [word for _ in range(count) for word in right_words(parts[0], rng)]
    if get_origin(kind) is Literal:
        return [str(rng(st.sampled_from(parts)))]
    if parts:
        return right_words(parts[0], rng)
    values = {
        bool: st.sampled_from(["true", "false", "yes", "no"]),
        int: st.integers(-1, 99).map(str),
        float: st.sampled_from(["0.5", "1", "-1", "1e-4", ".5", "0"]),
        Path: st.sampled_from(["runs/a", "a.csv", "a b"]),
        str: st.sampled_from(["resnet50", "a", "some title"]),
    }
    return [rng(values[kind])]


@st.composite
def lines(draw: Draw, name: str, options: Sequence[Option]) -> Arguments:
    words: list[list[str]] = []
    for option in options:
        required = option.default is REQUIRED
        if not required and draw(st.integers(0, max(3, len(options) // 3))):
            continue
        if required and draw(st.integers(0, 19)) == 0:
            continue
        given = [] if option.constant is not None else right_words(option.kind, draw)
        if draw(st.integers(0, 7)) == 0:
            given = draw(st.lists(ODD_WORDS, max_size=3))
        if option.name.startswith("-"):
            joined = len(given) == 1 and draw(st.booleans())
            words.append([f"{option.name}={given[0]}"] if joined else [option.name, *given])
        else:
            words.append(given)
    words = draw(st.permutations(words))
    if words and draw(st.integers(0, 9)) == 0:
        words.append(words[0])
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2]))):
        words.insert(draw(st.integers(0, len(words))), [draw(ODD_WORDS)])
    start = name.split()
    if draw(st.integers(0, 24)) == 0:
        start = draw(st.sampled_from([[], start[:1], [f"{start[0]}x"], [start[0][:-1]], ["--version"], ["data"]]))
    return {"words": [*start, *(word for each in words for word in each)]}


@dataclasses.dataclass
class Answer:
    """What a command came to.

    Args:
        status: its exit status.
        out: on stdout.
        err: on stderr.
        options: what its function was given; None where it was not called.
    """

    status: int
    out: str
    err: str
    options: Any = None


def answer(program: Program, words: Sequence[str], *, stub: bool) -> Answer:
    """Run a command in this process; with `stub`, up to the function that does it."""
    called: list[Any] = []
    out, err = io.StringIO(), io.StringIO()
    stubbed = types.SimpleNamespace()
    for command in program.commands.values():
        setattr(stubbed, command.run.partition(":")[2], called.append)
    with redirect_stdout(out), redirect_stderr(err), mock.patch.dict(os.environ), pytest.MonkeyPatch.context() as patch:
        if stub:
            patch.setattr("attnreid.command_line.program.import_module", lambda module: stubbed)
        status = program.main(list(words))
    return Answer(status, out.getvalue(), err.getvalue(), called[0] if called else None)


def tell(result: Answer) -> str:
    """Say how a command came out, for the table."""
    return "refused, status 2" if result.status == 2 else "right"


def check_answer(arguments: Arguments, result: Answer) -> None:
    """A mistake is one sentence and status 2; otherwise nothing stands on stderr."""
    if result.status == 2:
        assert result.out == "", f"a mistake prints on stdout: {result.out:.200}"
        assert result.err.startswith("error: ")
        assert result.err.endswith("\n")
        lines = result.err.strip("\n").split("\n")
        asked = any("\n" in word for word in arguments["words"])
        assert len(lines) == 1 or asked, f"more than one line: {result.err:.300}"
        assert "Traceback" not in result.err
        assert result.options is None
    else:
        assert result.status in (0, 1)


def _check_options(schema: type, arguments: Arguments, result: Answer) -> None:
    check_answer(arguments, result)
    if result.options is None:
        return
    assert isinstance(result.options, schema)
    named = {option.key: option for option in options_of(schema)}
    for field in dataclasses.fields(schema):
        value = getattr(result.options, field.name)
        assert fits(value, field.type), f"{field.name} is {value!r}, no {field.type}"
        least = named[field.name].least
        if least is not None and value is not None and value != field.default:
            assert min(value if isinstance(value, tuple) else [value]) >= least


def _of_options(program: Program) -> list[Entry]:
    return [
        Entry(
            f"{program.script} {name}: its words",
            lines(name, options_of(command.options)),
            lambda arguments: answer(program, arguments["words"], stub=True),
            functools.partial(_check_options, command.options),
            (),
            tell=tell,
            weight=0.4,
        )
        for name, command in program.commands.items()
        if command.options is not None
    ]


# Configs


@st.composite
def config_words(draw: Draw, schema: type) -> Arguments:
    keys = keys_of(schema)
    words = ["--data.root", "images"]
    chosen: dict[str, list[str]] = {}
    for key in draw(st.lists(st.sampled_from(sorted(keys)), min_size=1, max_size=3, unique=True)):
        given = right_words(keys[key].kind, draw) if draw(st.integers(0, 2)) else draw(st.lists(ODD_WORDS, max_size=3))
        name = f"--{key}" if draw(st.integers(0, 14)) else f"--{key[:-1]}"
        chosen[key] = given
        words += [f"{name}={given[0]}"] if len(given) == 1 and draw(st.booleans()) else [name, *given]
    return {"words": words, "chosen": chosen}


def _config(name: str, arguments: Arguments) -> Any:
    pipeline = PIPELINES[name]
    return load_config(pipeline.config, ["--config", "demo", *arguments["words"]], recipes=pipeline.recipes)


def _check_config(name: str, arguments: Arguments, config: Any) -> None:
    schema = PIPELINES[name].config
    config_fits(schema, config)
    plain = load_config(schema, ["--config", "demo", "--data.root", "images"], recipes=PIPELINES[name].recipes)
    keys = keys_of(schema)
    for key, option in keys.items():
        value, before = (functools.reduce(getattr, key.split("."), each) for each in (config, plain))
        if f"--{key}" not in [word.partition("=")[0] for word in arguments["words"]]:
            assert value == before, f"{key} was not given, and is {value!r}"
        elif option.kind in (int, float) and key in arguments["chosen"]:
            assert value == option.kind(arguments["chosen"][key][0])


@st.composite
def train_lines(draw: Draw) -> Arguments:
    paper = draw(st.sampled_from(["apnet", "mla", "apnt", "", "mla apnet"]))
    given = draw(config_words(PIPELINES["apnet" if paper != "mla" else "mla"].config))["words"]
    recipe = draw(st.sampled_from(["demo", "demo", "dmo", "mla_market", "../x", "/dev/null", "", "no.yaml", "/"]))
    more = draw(st.sampled_from([["--print_config"], ["--out", "run"], [], ["--out"], ["--out", "a", "--out", "b"]]))
    return {"words": ["train", *paper.split(), "--config", recipe, *given, *more]}


def _train(arguments: Arguments) -> Answer:
    started: list[Any] = []
    running = types.ModuleType("running")
    running.train = lambda name, load, out, **_: started.append((name, load(), out))  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {"reference_pipelines.commands.running": running}):
        result = answer(PIPELINES_PROGRAM, arguments["words"], stub=False)
    if started:
        result.options = started[0]
    return result


def _check_train(arguments: Arguments, result: Answer) -> None:
    check_answer(arguments, result)
    if result.options is not None:
        name, config, out = result.options
        config_fits(PIPELINES[name].config, config)
        assert isinstance(out, Path)
    elif result.status == 0 and "--print_config" in arguments["words"] and not result.out.startswith("usage"):
        assert isinstance(yaml.safe_load(result.out), dict)


# Whole commands


def small() -> nn.Module:
    """A model for `attnreid sites` and `cost`."""
    return _convs()


@st.composite
def attnreid_lines(draw: Draw) -> Arguments:
    command = draw(st.sampled_from(["sites", "cost"]))
    target = draw(
        st.sampled_from(
            [
                *["tests.fuzz.command_lines:small"] * 6,
                "tests.fuzz.command_lines:nothing",
                "nowhere:x",
                "os:abort_",
                "math:pi",
                "x",
            ]
        )
    )
    words = [
        command,
        target,
        "--input-size",
        *draw(st.sampled_from([["16", "8"], ["16,8"], ["3", "16", "8"], ["16"], ["0", "8"], ["a", "b"]])),
    ]
    if command == "cost":
        words += ["--preset", draw(st.sampled_from(["pyramid", "pyramid", "apnet", "mla", "se", "x"]))]
        for name, values in (
            ("--attention", ["se", "rga_s", "sea", "timm:eca", "torch.nn:Identity", "a:b", "se,rga_s"]),
            ("--levels", ["1", "2", "3", "1,2", "0", "-1", "x", "pixel,head"]),
            ("--radix", ["1", "2", "0", "-1", "9"]),
            ("--stages", ["1", "2", "0", "9", "1 2"]),
            ("--reduction", ["1", "16", "0", "-3"]),
            ("--last-stride", ["1", "2", "3"]),
        ):
            if draw(st.integers(0, 3)) == 0:
                words += [name, *draw(st.sampled_from(values)).split()]
    else:
        words += draw(
            st.sampled_from(
                [[], ["--all"], ["--json"], ["--depth", "1"], ["--depth", "0"], ["--option", "a=1"], ["--option", "=x"]]
            )
        )
    if draw(st.integers(0, 9)) == 0:
        words.insert(draw(st.integers(0, len(words))), draw(ODD_WORDS))
    return {"words": words}


def _check_attnreid(arguments: Arguments, result: Answer) -> None:
    check_answer(arguments, result)
    if result.status == 0 and "--json" in arguments["words"] and "--help" not in arguments["words"]:
        assert isinstance(json.loads(result.out), list)


@functools.cache
def places() -> dict[str, str]:
    """Return paths that commands are tried on, sound and other ones, made once."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-places-"))
    (root / "empty").mkdir()
    (root / "text").write_text("hello")
    os.mkfifo(root / "pipe")
    found = {
        "market": miniatures.market1501(root / "m"),
        "csv": miniatures.own_csv(root / "c"),
        "store": store(root / "s"),
        "ledger": ledger(root / "l"),
        **{name: root / name for name in ("empty", "text", "pipe", "nothing")},
        "device": Path("/dev/zero"),
    }
    return {name: str(path) for name, path in found.items()}


@st.composite
def pipelines_lines(draw: Draw) -> Arguments:
    def place() -> str:
        return places()[draw(st.sampled_from(sorted(places())))]

    command = draw(
        st.sampled_from(
            ["data verify", "check-result", "claims", "cluster", "search", "same", "evaluate", "extract", "report"]
        )
    )
    out = str(Path(places()["empty"]) / "out")
    words = [*command.split(), place()]
    if command == "cluster":
        words += ["--out", draw(st.sampled_from([out, "/nowhere/x", "/dev/full"]))]
        for name, values in (
            ("--eps", ["0.5", "0", "1", "nan", "-1", "inf"]),
            ("--k1", ["1", "3", "99999"]),
            ("--k2", ["1", "9"]),
            ("--min-samples", ["1", "99"]),
            ("--engine", ["exact", "faiss-flat", "approximate"]),
            ("--recall", ["0.9", "1", "0", "nan"]),
        ):
            if draw(st.booleans()):
                words += [name, draw(st.sampled_from(values))]
    elif command == "search":
        words += ["--gallery", place(), "--top", draw(st.sampled_from(["1", "3", "99", "0", "x"]))]
        words += draw(
            st.sampled_from([[], ["--json"], ["--query", "x.jpg"], ["--html", out], ["--html", "/nowhere/x"]])
        )
    elif command in ("extract", "report"):
        words += [place()] if command == "extract" else []
        words += ["--out", draw(st.sampled_from([out, place(), "/nowhere/x"]))]
    elif command == "same":
        words += [place(), place()]
    elif command == "claims":
        words += draw(st.sampled_from([[], ["--scale", "demo"], ["--scale", "x"], ["--out", out]]))
    elif command == "data verify":
        words += draw(
            st.sampled_from([[], ["--json"], ["--layout", "csv"], ["--layout", "market1501"], ["--layout", "x"]])
        )
    return {"words": words}


def _on_disk(arguments: Arguments) -> Answer:
    result = answer(PIPELINES_PROGRAM, arguments["words"], stub=False)
    for path in Path(places()["empty"]).rglob("*"):
        assert not path.name.endswith(".partial"), f"{path} is half written"
        if path.is_file():
            path.unlink()
    return result


def entries() -> list[Entry]:
    """Return the entry points on the command line."""
    configs = [
        Entry(
            f"config keys of {name}",
            config_words(PIPELINES[name].config),
            functools.partial(_config, name),
            functools.partial(_check_config, name),
            (UserError,),
            weight=1.5,
        )
        for name in PIPELINES
    ]
    return [
        *_of_options(ATTNREID),
        *_of_options(PIPELINES_PROGRAM),
        *configs,
        Entry("train: its words", train_lines(), _train, _check_train, (), tell=tell, weight=0.7),
        Entry(
            "attnreid, run",
            attnreid_lines(),
            lambda arguments: answer(ATTNREID, arguments["words"], stub=False),
            _check_attnreid,
            (),
            tell=tell,
            weight=0.3,
        ),
        Entry("attnreid-pipelines, run", pipelines_lines(), _on_disk, check_answer, (), tell=tell, weight=0.5),
    ]
