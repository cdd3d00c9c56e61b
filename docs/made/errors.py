"""Every sentence that a user's mistake is answered with, read from the `raise` statements of both packages."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
WAYS_OUT = ROOT / "docs" / "errors.yaml"
PACKAGES = ("attnreid", "reference_pipelines")
KINDS = ("ValueError", "TypeError", "RuntimeError", "UserError", "FileExistsError")
GAP = "…"


@dataclass(frozen=True)
class Sentence:
    """One sentence of one `raise`.

    Args:
        text: the sentence, a gap for each value that is put in.
        kind: the exception.
        module: where it is raised.
    """

    text: str
    kind: str
    module: str


@dataclass(frozen=True)
class WayOut:
    """What to do about a sentence that many people meet.

    Args:
        part: of the sentence, as `Sentence.text` has it.
        why: how one comes to it.
        do: what to do, in Markdown.
    """

    part: str
    why: str
    do: str


@cache
def sentences() -> tuple[Sentence, ...]:
    """Return the sentences of both packages, each once, in the order of the modules."""
    found: dict[tuple[str, str], Sentence] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for kind, text in _raised(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault((module, text), Sentence(text, kind, module))
    return tuple(found.values())


def _raised(tree: ast.Module) -> Iterator[tuple[str, str]]:
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind, first = ast.unparse(node.exc.func), node.exc.args[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
            kind, first = "UserError", node.args[1]
        else:
            continue
        if kind not in KINDS or (text := _text(first, constants)) is None:
            continue
        if ast.unparse(node).startswith("require"):
            text = f"config: {text}, got {GAP}"
        if sum(character.isalpha() for character in text) >= 12:  # more than the parts that are put in
            yield kind, text


def _text(node: ast.expr, constants: Mapping[str, str]) -> str | None:
    """Return the text of a literal, gaps in it for values; None where it comes from elsewhere."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"\s+", " ", text)
        case ast.JoinedStr(values=values):
            parts = [_filled(value, constants) for value in values]
            return re.sub(rf"{GAP}(\s*{GAP})+", GAP, re.sub(r"\s+", " ", "".join(parts)))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            sides = _text(left, constants), _text(right, constants)
            return None if sides == (None, None) else "".join(GAP if side is None else side for side in sides)
    return None


def _filled(value: ast.expr, constants: Mapping[str, str]) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    inner: Any = value.value if isinstance(value, ast.FormattedValue) else None
    return constants.get(inner.id, GAP) if isinstance(inner, ast.Name) else GAP


def ways_out(source: Path = WAYS_OUT) -> list[WayOut]:
    """Return the ways out that are written at length."""
    return [WayOut(**each) for each in yaml.safe_load(source.read_text(encoding="utf-8"))]


def whole(part: str, known: Sequence[Sentence]) -> Sentence:
    """Return the sentence that a way out is for.

    Raises:
        ValueError: none has this part.
    """
    found = next((each for each in known if part in each.text), None)
    if found is None:
        raise ValueError(f"errors.yaml: a part must stand in a sentence that is raised, got {part!r}; correct it")
    return found


def index() -> str:
    """Return the page's two lists in Markdown."""
    known = sentences()
    lines = ["## Those that many people meet", ""]
    for way in ways_out():
        lines += [f"**{_plain(whole(way.part, known).text)}**", "", f": {way.why}", "", f"  {way.do}", ""]
    lines += ["## All of them", "", f"{len(known)} sentences of {len({each.module for each in known})} files.", ""]
    return "\n".join(lines)


def table() -> list[list[str]]:
    """Return the rows of the table of all sentences."""
    return [[each.kind, _plain(each.text), f"`{each.module}`"] for each in sentences()]


def _plain(text: str) -> str:
    """Return a sentence as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>|$#{}~])", r"\\\1", text)
