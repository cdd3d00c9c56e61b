"""A dataclass as a command: which options it has, how they fill it, what is refused, and what the help says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from attnreid.command_line import UserError, help_text, options_of, read_options, typed
from tests.conftest import says


@dataclass(frozen=True, kw_only=True)
class Base:
    """What every one has.

    Args:
        source: where it comes from,
            on two lines.
    """

    source: Path = typed(word="FILE", like=lambda word: ":" in word)


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """A command.

    Args:
        mode: how.
        size: height and width.
        names: some names.
        tag: one of several.
        draws: how often.
        both: a choice that may be left open.
        quiet: say nothing.
    """

    mode: Literal["fast", "slow"]
    size: tuple[int, int] = typed((8, 4), least=1)
    names: tuple[str, ...] = typed((), metavar="NAME")
    tag: tuple[str, ...] = typed((), metavar="TAG", repeatable=True)
    draws: int | None = typed(None, least=2)
    both: bool | None = None
    quiet: bool = False


def read(line, **options):
    return read_options("who", Options, line.split(), see="the help", **options)


def test_left_out_options_have_their_defaults():
    assert read("a --mode fast") == Options(source=Path("a"), mode="fast")


@pytest.mark.parametrize(
    "line",
    [
        "a --mode slow --size 2 3 --names x y --tag 1 --tag 2 --draws 2 --no-both --quiet",
        "--quiet --draws=2 --tag 1 --no-both --size 2,3 a --names x y --tag=2 --mode=slow",
    ],
)
def test_words_may_stand_in_any_order(line):
    meant = Options(
        source=Path("a"), mode="slow", size=(2, 3), names=("x", "y"), tag=("1", "2"), draws=2, both=False, quiet=True
    )
    assert read(line) == meant


def test_a_list_gives_back_the_word_that_stands_by_itself():
    assert read("--mode fast --names x a:b").names == ("x",)
    assert read("--mode fast --names x a:b").source == Path("a:b")
    assert read("a --mode fast --names x a:b").names == ("x", "a:b")
    for line in ("--mode fast --names a:b", "--mode fast --names x y"):
        with pytest.raises(UserError, match="FILE is missing"):
            read(line)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--mode fast", ["who: FILE is missing, where it comes from, on two lines; see the help"]),
        ("a", ["who: --mode is missing, one of fast, slow; see the help"]),
        ("a b --mode fast", ["who: 'b' is one word too many; see the help"]),
        ("a --mode quick", ["who: --mode must be one of fast, slow, got quick"]),
        ("a --mode fast --size 0 4", ["who: --size must be at least 1, got 0 4"]),
        ("a --mode fast --size 8", ["who: --size must be 2 whole numbers", "got 8"]),
        ("a --mode fast --draws 1", ["who: --draws must be at least 2, got 1"]),
        ("a --mode fast --draws null", ["who: --draws must be a whole number, got null"]),
        ("a --mode fast --both --no-both", ["who: --both and --no-both must be given once"]),
        ("a --mode fast --quiet=no", ["who: --quiet takes no value, got 'no'"]),
        ("a --mode fast --quite", ["who: there is no option --quite; did you mean --quiet"]),
        ("a --mode fast --domain x", ["who: there is no option --domain; it is one of other"]),
    ],
)
def test_a_wrong_line_is_one_sentence(line, parts):
    with pytest.raises(UserError) as caught:
        read(line, elsewhere={"other": ["--domain"]})
    assert says(str(caught.value), *parts)
    assert "\n" not in str(caught.value)


def test_an_empty_word_is_refused():
    for words in (["", "--mode", "fast"], [" ", "--mode", "fast"], ["a", "--mode", "fast", "--names", "x", ""]):
        with pytest.raises(UserError, match="must not be empty"):
            read_options("who", Options, words, see="the help")


def test_the_help_names_everything_once_with_its_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = help_text("program who", "Does it.", options_of(Options), "examples: none")
    assert text.startswith("usage: program who FILE [options]\n\nDoes it.\n\n")
    assert text.endswith("\n\nexamples: none")
    assert max(map(len, text.splitlines())) <= 60
    rows = " ".join(text.split())
    for part in (
        "FILE where it comes from, on two lines --mode fast|slow how (required)",
        "--size N N height and width (default: 8 4)",
        "--names NAME... some names --tag TAG one of several --draws N how often",
        "--both a choice that may be left open --no-both --quiet say nothing",
    ):
        assert rows.count(part) == 1, part
