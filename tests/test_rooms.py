"""The rooms of the pipelines: none imports another in a circle, and the configs are below all that computes."""

import ast
from pathlib import Path

import reference_pipelines

PACKAGE = Path(reference_pipelines.__file__).parent


def imported(path):
    """Return the rooms that a module imports from, other than for its types alone."""
    tree = ast.parse(path.read_text())
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in skipped:
            names = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name.split(".")[1] for name in names if name.startswith("reference_pipelines."))


def rooms():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(room, set()).update(set(imported(path)) - {room})
    return found


def test_no_room_imports_in_a_circle():
    left = rooms()
    assert {"commands", "experiments", "pipelines", "training", "config"} <= set(left)
    while free := [room for room, needed in left.items() if not needed & set(left)]:
        for room in free:
            del left[room]
    assert left == {}


def test_the_configs_are_below_everything():
    assert rooms()["config"] <= {"errors"}
