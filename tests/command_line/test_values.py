"""What is typed and what YAML holds, by the type of its field; and what a wrong value is said to have to be."""

import math
from pathlib import Path
from typing import Literal

import pytest

from attnreid.command_line import convert, describe

Word = Literal["pixel", "head"]
Number = Literal[1, 2]


@pytest.mark.parametrize(
    ("kind", "value", "meant"),
    [
        (int, "3", 3),
        (int, "-3", -3),
        (int, 3, 3),
        (float, "1e-4", 1e-4),
        (float, "3", 3.0),
        (float, 3, 3.0),
        (float, 0.5, 0.5),
        (float, "inf", math.inf),
        (str, "3", "3"),
        (Path, "a,b", Path("a,b")),
        (bool, "Yes", True),
        (bool, "off", False),
        (bool, False, False),
        (Word, "head", "head"),
        (Number, "2", 2),
        (Number, 2, 2),
        (int | None, "null", None),
        (int | None, None, None),
        (int | None, "4", 4),
        (tuple[int, int], ["64", "32"], (64, 32)),
        (tuple[int, int], ["64,32"], (64, 32)),
        (tuple[int, int], ["[64,", "32]"], (64, 32)),
        (tuple[int, int], [64, 32], (64, 32)),
        (tuple[float, ...], [1, 2.5], (1.0, 2.5)),
        (tuple[int, ...], ["[]"], ()),
        (tuple[int, ...], [], ()),
        (tuple[Word, ...], ["['pixel',", '"head"]'], ("pixel", "head")),
        (tuple[str, ...], ["a,b", "[c]"], ("a,b", "[c]")),
        (tuple[Path, ...], ["a, b"], (Path("a, b"),)),
    ],
)
def test_a_value_is_what_its_type_says(kind, value, meant):
    found = convert(kind, value)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((int, value) for value in ("x", "1.0", "1e3", "1_000", "", "true", 1.0, True, None, [1])),
        *((float, value) for value in ("x", "1_0", ".inf", "", True, None, [1.0])),
        *((str, value) for value in (3, True, None, ["a"])),
        *((bool, value) for value in ("1", "", 1, 0, None)),
        *((Word, value) for value in ("hed", False, None, ["head"])),
        *((Number, value) for value in ("3", True, 1.0)),
        *((tuple[int, int], value) for value in (["64"], ["64", "32", "8"], [64, None], "64", 64, None, ["a", "b"])),
        (tuple[Word, ...], ["hed"]),
        (int | None, "none"),
        (Path, 3),
    ],
)
def test_what_is_of_another_type_is_refused(kind, value):
    with pytest.raises(ValueError, match="."):  # what is said of it is for `describe`
        convert(kind, value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "a whole number"),
        (bool, "true or false"),
        (Word, "one of pixel, head"),
        (int | None, "a whole number or null"),
        (tuple[int, int], "2 whole numbers, such as 64 32"),
        (tuple[float, float, float], "3 numbers, such as 0 0 0"),
        (tuple[Word, ...], "any of pixel, head, with spaces between them, or [] for none"),
        (tuple[int, ...], "whole numbers, with spaces between them, or [] for none"),
    ],
)
def test_a_type_is_described(kind, text):
    assert describe(kind) == text
