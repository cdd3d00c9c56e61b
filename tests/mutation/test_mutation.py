"""The mutants themselves: what is changed and what is not, and that the working tree never is."""

import ast
import json

import pytest

from tests.mutation import __main__ as program
from tests.mutation import mutants, page, running
from tests.mutation.mutants import mutants_of, mutated
from tests.mutation.targets import AREAS, ROOT


@pytest.fixture
def changes(tmp_path, monkeypatch):
    """Return the changes of some lines of source."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)

    def of(source):
        (tmp_path / "module.py").write_text(source)
        return [mutant.change for mutant in mutants_of("module.py")]

    return of


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", ["`a < b` → `a <= b`", "`a < b` → `a >= b`"]),
        ("x = a is None", ["`a is None` → `a is not None`"]),
        ("x = a + b", ["`a + b` → `a - b`"]),
        ("x = a and b", ["`a and b` → `a or b`"]),
        ("x = not a", ["`not a` → `not not a`"]),
        ("x = -a", ["`-a` → `+a`"]),
        ("x = 3", ["`3` → `4`", "`3` → `2`"]),
        ("x = True", ["`True` → `False`"]),
        ("x = a[b:c]", ["`b:c` → `:c`", "`b:c` → `b:`"]),
        ("x = min(a)", ["`min(a)` → `max(a)`"]),
        ("x = a.any()", ["`a.any()` → `a.all()`"]),
        ("x = f(a, key=b)", ["`f(a, key=b)` → `f(a)`"]),
        ("f(a)", ["`f(a)` left out"]),
        ("x += a", ["`x += a` → `x -= a`"]),
        ("if a:\n    raise E(f'{1 + 1}')", ["`if a` → `if not a`", "`raise E(f'{1 + 1}')` left out"]),
        ("def f(a):\n    if a:\n        return b\n    return c", ["`if a` → `if not a`", "`return b` left out"]),
        ("self.a = b", ["`self.a = b` left out"]),
        ("def f(a=False): pass", ["`False` → `True`"]),
    ],
)
def test_what_is_changed(changes, source, expected):
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""1 + 1."""',
        "import a",
        "x: int",
        "x: Literal[1]",
        "x = f'{1 + 1}'",
        "x = 'a' + b",
        "__all__ = [1]",
        "assert a < b",
    ],
)
def test_what_is_left_alone(changes, source):
    assert changes(source) == []


def test_every_mutant_of_a_file_compiles_differs_and_keeps_its_lines():
    path = "attnreid/layers/gate.py"
    whole = ast.dump(ast.parse((ROOT / path).read_text()))
    every = mutants_of(path)
    assert len(every) == len({mutant.key for mutant in every}) > 50
    for mutant in every[::7]:
        tree = mutated(mutant)
        compile(tree, path, "exec")
        assert ast.dump(tree) != whole


def test_a_mutants_name_does_not_depend_on_its_line(changes, tmp_path):
    changes("def f(a):\n    return a + 1\n")
    keys = [mutant.key for mutant in mutants_of("module.py")]
    changes("import b\n\n\ndef f(a):\n    return a + 1\n")
    assert [mutant.key for mutant in mutants_of("module.py")] == keys


def test_a_child_imports_the_mutant_and_the_file_stays_as_it_is(tmp_path):
    path = "tests/mutation/example.py"
    before = (ROOT / path).read_bytes()
    (mutant,) = (each for each in mutants_of(path) if each.change == "`a + b` → `a - b`")

    def work():
        running.take_in_place(mutant)
        from tests.mutation import example

        return example.add(5, 3)

    assert running.in_child(work, tmp_path / "log", 60)[0] == 2
    assert (ROOT / path).read_bytes() == before
    from tests.mutation import example

    assert example.add(5, 3) == 8


def test_a_mutant_that_never_ends_is_stopped(tmp_path):
    status, seconds = running.in_child(lambda: exec("while True: pass"), tmp_path / "log", 0.3)
    assert status is None
    assert seconds < 10


def test_the_same_mutants_are_drawn_again_and_as_many_of_each_area():
    for area in AREAS:
        assert program._draw(area, 50, seed=0) == program._draw(area, 50, seed=0) != program._draw(area, 50, seed=1)
        assert len(program._draw(area, 50, seed=0)) == 10


def test_reasons_are_of_files_that_are_mutated():
    reasons = json.loads(program.EQUIVALENT.read_text(encoding="utf-8"))
    assert {key.partition(" ")[0] for key in reasons} <= {path for area in AREAS for path in area.modules()}
    assert all(reasons.values())


def test_the_page_counts_what_is_not_equivalent():
    area = AREAS[0]
    some = mutants_of(area.modules()[0])[:4]
    outcomes = ["killed", "timed out", "survived", "not run"]
    tried = [(area, mutant, {"outcome": outcome}) for mutant, outcome in zip(some, outcomes, strict=True)]
    told = page.write(tried, {some[2].key: "it is the same"}, seed=0)
    assert "**66.7 % of the mutants that are not equivalent are caught** (2 of 3" in told
    assert "equivalent: it is the same" in told
    assert f"`{some[3].path}:{some[3].line}`" in told
