"""Which single changes of a source file there are: each is one that a test ought to notice."""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_CALCULATED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_PAIRS = [
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("minimum", "maximum"),
    ("any", "all"),
    ("floor", "ceil"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("mean", "sum"),
    ("first", "last"),
]
_NAMES = dict(_PAIRS) | {b: a for a, b in _PAIRS}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Args:
        path: the file, from the repository's root.
        where: the function or class that it is in.
        line, last: the lines of the statement's part that is changed.
        change: what stood there and what stands there now.
        nth: which of several equal changes in one function.
        number: of the change, among all of the file.
    """

    path: str
    where: str
    line: int
    last: int
    change: str
    nth: int
    number: int

    @property
    def key(self) -> str:
        """Its name, which lines that move leave as it is."""
        return f"{self.path} {self.where}: {self.change}" + (f" ({self.nth})" if self.nth > 1 else "")

    @property
    def module(self) -> str:
        """The module's name."""
        return self.path.removesuffix(".py").replace("/", ".")


@dataclass(frozen=True)
class _Site:
    """A place and what is put there: `value` as the attribute `name` of `owner`."""

    node: ast.AST
    where: str
    owner: ast.AST
    name: str
    value: Any

    def change(self) -> str:
        """What stands there and what would; the tree stays as it is."""
        if isinstance(self.value, list) and self.value and isinstance(self.value[0], ast.stmt):
            return f"`{_text(self.node)}` left out"
        before, old = _text(self.node), getattr(self.owner, self.name)
        setattr(self.owner, self.name, self.value)
        after = _text(self.node)
        setattr(self.owner, self.name, old)
        return f"`{before}` → `{after}`"


def mutants_of(path: str) -> list[Mutant]:
    """Return every change of a file, in the order of its lines."""
    told: Counter[tuple[str, str]] = Counter()
    found = []
    for number, site in enumerate(_sites(ast.parse((ROOT / path).read_text(encoding="utf-8")))):
        change = site.change()
        told[site.where, change] += 1
        first, last = site.node.lineno, _last_line(site.node)  # type: ignore[attr-defined]
        found.append(Mutant(path, site.where, first, last, change, told[site.where, change], number))
    return found


def mutated(mutant: Mutant) -> ast.Module:
    """Return the tree of the file with the change in it; every other line stays where it is."""
    tree = ast.parse((ROOT / mutant.path).read_text(encoding="utf-8"))
    site = list(_sites(tree))[mutant.number]
    setattr(site.owner, site.name, site.value)
    return ast.fix_missing_locations(tree)


def _last_line(node: ast.AST) -> int:
    """Return the last line of an expression, or of what a compound statement begins with."""
    body = getattr(node, "body", None)
    if isinstance(node, ast.stmt) and isinstance(body, list):
        return max(node.lineno, body[0].lineno - 1)
    return int(node.end_lineno)  # type: ignore[attr-defined]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.If | ast.While):
        return f"{type(node).__name__.lower()} {_short(ast.unparse(node.test))}"
    return _short(ast.unparse(node))


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 120 else f"{words[:117]}..."


def _sites(tree: ast.Module) -> Iterator[_Site]:
    yield from _in_block(tree, "body", "module", inner=False)


def _in_block(parent: ast.AST, field: str, where: str, *, inner: bool) -> Iterator[_Site]:
    block: list[ast.stmt] = getattr(parent, field)
    for index, node in enumerate(block):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _of_definition(node, node.name if where == "module" else f"{where}.{node.name}")
        elif not _is_left_alone(node):
            if _can_go(node, inner=inner and index == len(block) - 1):
                without = [*block[:index], ast.copy_location(ast.Pass(), node), *block[index + 1 :]]
                yield _Site(node, where, parent, field, without)
            yield from _of_statement(node, where)


def _of_definition(node: ast.FunctionDef | ast.ClassDef, where: str) -> Iterator[_Site]:
    if isinstance(node, ast.FunctionDef):
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            yield from _of_expression(default, where)
    yield from _in_block(node, "body", where, inner=False)


def _is_left_alone(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal | ast.Pass | ast.Assert):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return True
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__all__", "__slots__")


def _can_go(node: ast.stmt, *, inner: bool) -> bool:
    """A refusal, a call for its effect, a value that is kept, an early return."""
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    return isinstance(node, ast.Raise | ast.Continue | ast.Break) or (inner and isinstance(node, ast.Return))


def _of_statement(node: ast.stmt, where: str) -> Iterator[_Site]:
    if isinstance(node, ast.If | ast.While):
        yield _Site(node, where, node, "test", _not(node.test))
    if isinstance(node, ast.AugAssign) and type(node.op) in _CALCULATED:
        yield _Site(node, where, node, "op", _CALCULATED[type(node.op)]())
    if isinstance(node, ast.Raise):
        return  # the words of a message
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "target", "targets"):
            yield from _of_field(node, name, value, where)


def _of_field(node: ast.stmt, name: str, value: Any, where: str) -> Iterator[_Site]:
    if isinstance(value, ast.expr):
        yield from _of_expression(value, where)
    elif isinstance(value, list) and value and isinstance(value[0], ast.stmt):
        yield from _in_block(node, name, where, inner=True)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, ast.withitem):
                yield from _of_expression(each.context_expr, where)
            elif isinstance(each, ast.ExceptHandler):
                yield from _in_block(each, "body", where, inner=True)


def _of_expression(node: ast.expr, where: str) -> Iterator[_Site]:
    """What can be changed in an expression; the words of messages are not."""
    if isinstance(node, ast.JoinedStr):
        return
    for owner, name, value in _changes(node):
        yield _Site(node, where, owner, name, value)
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.expr):
            yield from _of_expression(each, where)
        elif isinstance(each, ast.keyword):
            yield from _of_expression(each.value, where)
        elif isinstance(each, ast.comprehension):
            for part in (each.iter, *each.ifs):
                yield from _of_expression(part, where)


def _changes(node: Any) -> Iterator[tuple[ast.AST, str, Any]]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in _other_comparisons(operator):
                yield node, "ops", [other if at == place else op for at, op in enumerate(node.ops)]
    elif isinstance(node, ast.BinOp):
        if type(node.op) in _CALCULATED and not _has_text(node):
            yield node, "op", _CALCULATED[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        yield node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, "operand", _not(node.operand)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node, "op", ast.UAdd()
    elif isinstance(node, ast.Constant):
        for other in _other_constants(node.value):
            yield node, "value", other
    elif isinstance(node, ast.Slice):
        for name in ("lower", "upper", "step"):
            if getattr(node, name) is not None:
                yield node, name, None
    elif isinstance(node, ast.IfExp):
        yield node, "test", _not(node.test)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)


def _not(node: ast.expr) -> ast.expr:
    return ast.copy_location(ast.UnaryOp(ast.Not(), node), node)


def _other_comparisons(operator: ast.cmpop) -> list[ast.cmpop]:
    others: list[ast.cmpop] = [_COMPARED[type(operator)]()]
    if isinstance(operator, ast.Lt | ast.LtE):
        others.append(ast.GtE())
    elif isinstance(operator, ast.Gt | ast.GtE):
        others.append(ast.LtE())
    return others


def _other_constants(value: object) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    return [value + 1, value - 1] if isinstance(value, int | float) else []


def _other_calls(node: ast.Call) -> Iterator[tuple[ast.AST, str, Any]]:
    for place, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield node, "keywords", [each for at, each in enumerate(node.keywords) if at != place]
    called = node.func
    if isinstance(called, ast.Name) and called.id in _NAMES:
        yield called, "id", _NAMES[called.id]
    elif isinstance(called, ast.Attribute) and called.attr in _NAMES:
        yield called, "attr", _NAMES[called.attr]


def _has_text(node: ast.BinOp) -> bool:
    return any(isinstance(each, ast.JoinedStr) or isinstance(getattr(each, "value", 0), str) for each in ast.walk(node))
